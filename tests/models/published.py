"""Networks of ours under the names of a published checkpoint's state_dict."""

from __future__ import annotations

import re

from torch import Tensor

from adit_scale.models.autoencoder import Autoencoder
from adit_scale.models.dit import Denoiser

_LAYER = r"(encoder|decoder)\.blocks\.(\d+)\."
_AUTOENCODER = (
    (_LAYER + r"attention\.qkv\.(weight|bias)", r"\1.transformer.layers.\2.self_attn.in_proj_\3"),
    (_LAYER + r"attention\.proj\.", r"\1.transformer.layers.\2.self_attn.out_proj."),
    (_LAYER + r"mlp\.fc([12])\.", r"\1.transformer.layers.\2.linear\3."),
    (_LAYER + r"norm([12])\.", r"\1.transformer.layers.\2.norm\3."),
    (r"(encoder|decoder)\.norm\.", r"\1.transformer.norm."),
    (r"element_embedding\.", "encoder.atom_type_embedder."),
    (r"position_embedding\.fc1\.", "encoder.pos_embedder.0."),
    (r"position_embedding\.fc2\.", "encoder.pos_embedder.2."),
    (r"fractional_embedding\.fc1\.", "encoder.frac_coords_embedder.0."),
    (r"fractional_embedding\.fc2\.", "encoder.frac_coords_embedder.2."),
    (r"to_moments\.", "quant_conv."),
    (r"from_latent\.", "post_quant_conv."),
    (r"element_head\.", "decoder.atom_types_head."),
    (r"position_head\.", "decoder.pos_head."),
    (r"fractional_head\.", "decoder.frac_coords_head."),
    (r"lattice_head\.", "decoder.lattice_head."),
)
_DENOISER = (
    (r"blocks\.(\d+)\.attention\.qkv\.(weight|bias)", r"blocks.\1.attn.in_proj_\2"),
    (r"blocks\.(\d+)\.attention\.proj\.", r"blocks.\1.attn.out_proj."),
    (r"blocks\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"blocks\.(\d+)\.modulation\.", r"blocks.\1.adaLN_modulation.1."),
    (r"input\.", "x_embedder."),
    (r"time_embedding\.fc1\.", "t_embedder.mlp.0."),
    (r"time_embedding\.fc2\.", "t_embedder.mlp.2."),
    (r"domain_embedding\.", "dataset_embedder.embedding_table."),
    (r"spacegroup_embedding\.", "spacegroup_embedder.embedding_table."),
    (r"final\.modulation\.", "final_layer.adaLN_modulation.1."),
    (r"final\.head\.", "final_layer.linear."),
)


def published_names(autoencoder: Autoencoder, denoiser: Denoiser) -> dict[str, Tensor]:
    """Every weight of both, by its published name."""
    found = {}
    for prefix, network, names in (
        ("autoencoder", autoencoder, _AUTOENCODER),
        ("denoiser", denoiser, _DENOISER),
    ):
        for own, tensor in network.state_dict().items():
            renamed = [re.sub(f"^{p}", r, own) for p, r in names if re.match(p, own)]
            assert len(renamed) == 1, (own, renamed)
            found[f"{prefix}.{renamed[0]}"] = tensor
    return found
