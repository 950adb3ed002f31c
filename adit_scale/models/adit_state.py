"""The weights in a published ADiT checkpoint: found, chosen between averaged and plain ones, and read.

A Lightning file holds a ``state_dict`` beside settings, callbacks and optimizers of any class; only tensors
are read (torch_archive.py). Names may stand below a prefix (``model.``, ``ema.``), which is found by looking
for one tensor that each network must have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adit_scale.errors import CheckpointError, ConfigError
from adit_scale.models.torch_archive import (
    Note,
    TorchArchive,
    UnreadableArchive,
    is_tensor,
    n_bytes_of,
    texts_and_values,
)

PLAIN, AVERAGED = "model", "ema"
# A tensor that each network must have, which shows under which prefix it stands.
_PROBES = {"autoencoder": "quant_conv.weight", "denoiser": "x_embedder.weight"}
_MOST_OF_FILE = (
    2  # tensors that share a storage count twice; many more bytes than the file has are no weights
)
_COMPILED = "_orig_mod."  # what torch.compile puts into names


@dataclass(frozen=True)
class AditState:
    """tensors: by published name (``autoencoder.…``, ``denoiser.…``), whatever prefix they had. chosen:
    "model" or "ema". roots: the prefix of each network in the file. unknown: names of neither network.
    averages: whether the file holds averaged weights. facts: plain numbers of the file, such as global_step.
    """

    tensors: dict[str, Tensor]
    chosen: str
    roots: dict[str, str]
    unknown: list[str]
    averages: bool
    facts: dict[str, int]


def read_state(path: Path, weights: str = "") -> AditState:
    """Read a ``.ckpt`` or ``.safetensors`` file. weights: "model" or "ema", where the file holds both.

    Raises CheckpointError for a file that cannot be read or is no such checkpoint, ConfigError where a choice
    between averaged and plain weights is to be made, or cannot be.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; expected a published checkpoint (.safetensors or .ckpt)"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _chosen(path, list(file.keys()), file.get_tensor, weights, {})
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    try:
        with TorchArchive(path) as archive:
            notes = _tensor_notes(archive.root)
            if not notes:
                raise UnreadableArchive(
                    "holds no state_dict of tensors; expected a published ADiT checkpoint"
                )
            if sum(map(n_bytes_of, notes.values())) > _MOST_OF_FILE * archive.n_bytes:
                raise UnreadableArchive("holds more tensors than bytes; that is no checkpoint")
            facts = {k: v for k, v in texts_and_values(archive.root) if type(v) is int and len(k) < 32}
            return _chosen(path, list(notes), lambda name: archive.tensor(notes[name]), weights, facts)
    except UnreadableArchive as error:
        cure = "; where you trust it, save its state_dict as .safetensors" if "zip" in str(error) else ""
        raise CheckpointError(f"{path}: {error}{cure}") from error


def _tensor_notes(root: object) -> dict[str, Note]:
    """Tensors of the state_dict (or of the file itself), and of dictionaries named as averages."""
    entries = dict(texts_and_values(root))
    lots = [("", entries.get("state_dict", root))]
    lots += [(f"{key}.", value) for key, value in entries.items() if key != "state_dict" and _is_average(key)]
    found = {
        f"{prefix}{name.replace(_COMPILED, '')}": value
        for prefix, lot in lots
        for name, value in texts_and_values(lot)
        if is_tensor(value)
    }
    strange = [name for name, value in texts_and_values(lots[0][1]) if not is_tensor(value)]
    if strange and "state_dict" in entries:
        raise UnreadableArchive(f"its state_dict holds {strange[0][:80]!r}, which is no tensor")
    return found


def _is_average(name: str) -> bool:
    return any(word.startswith(AVERAGED) for word in re.split(r"[._]", name.lower()))


def _chosen(
    path: Path,
    names: Collection[str],
    read: Callable[[str], Tensor],
    weights: str,
    facts: Mapping[str, int],
) -> AditState:
    roots = {network: _roots(path, names, network) for network in _PROBES}
    averages = any(AVERAGED in found for found in roots.values())
    if not weights and averages and any(PLAIN in found for found in roots.values()):
        example = next(found[AVERAGED] for found in roots.values() if AVERAGED in found)
        raise ConfigError(
            f"{path}: holds averaged weights ({example}*) beside those of the last step; choose weights=ema "
            "(usual for sampling) or weights=model"
        )
    chosen = weights or (AVERAGED if averages else PLAIN)
    if chosen == AVERAGED and not averages:
        raise ConfigError(f"{path}: holds no averaged weights; leave weights=ema out")
    # An average may be kept of the denoiser alone: the frozen autoencoder has none.
    own = {
        network: found.get(chosen) or next(iter(found.values())) for network, found in roots.items() if found
    }
    other = tuple(root for found in roots.values() for root in found.values() if root not in own.values())
    tensors, unknown = {}, []
    for name in names:
        network = next((n for n, root in own.items() if name.startswith(root)), None)
        if network is not None:
            tensor = read(name)
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{path}: {name} holds NaN or infinite weights; expected finite ones")
            tensors[f"{network}.{name.removeprefix(own[network])}"] = tensor
        elif not name.startswith(other or ("\0",)) and not (averages and _is_average(name)):
            unknown.append(name)
    return AditState(tensors, chosen, own, sorted(unknown), averages, dict(facts))


def _roots(path: Path, names: Collection[str], network: str) -> dict[str, str]:
    """Prefixes, network's name included, below which a network stands: of averaged and of plain weights."""
    found: dict[str, str] = {}
    for name in sorted(names):
        root = name.removesuffix(_PROBES[network])
        if root == name or network not in root or not root.endswith("."):
            continue
        kind = AVERAGED if _is_average(root) else PLAIN
        if kind in found:
            raise CheckpointError(
                f"{path}: holds two {network}s, {found[kind]}* and {root}*; expected one of each network"
            )
        found[kind] = root
    return found


def known_words(weights: str) -> str:
    """``weights`` if it is a choice there is. Raises ConfigError."""
    if weights not in ("", PLAIN, AVERAGED):
        raise ConfigError(f"weights is {weights!r}; expected {AVERAGED} or {PLAIN}")
    return weights


def pass_over(path: Path, unknown: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """Names that belong to neither network and may be left out. Raises CheckpointError for any other."""
    rest = [name for name in unknown if not name.startswith(tuple(ignore) or ("\0",))]
    if rest:
        raise CheckpointError(
            f"{path}: unexpected tensor {rest[0]} ({len(rest)} in all); expected the published names "
            "autoencoder.* and denoiser.* only"
        )
    return list(unknown)
