"""``adit import-adit``: a published ADiT checkpoint, as a folder that `adit sample run=` opens.

    adit import-adit FILE out=FOLDER [key=value ...]

FILE       a Lightning .ckpt, of which only tensors are read (no code in it is run), or its state_dict as
           .safetensors; weights named autoencoder.* and denoiser.*, also below a prefix
out        a new folder
weights    ema or model, where the file holds averaged weights beside the last step's
data       folder of shards whose sizes are drawn when sampling; else `adit sample` needs data= or atoms=
autoencoder_heads, denoiser_heads
           attention heads, which no shape tells; needed for other sizes than the published
ignore     beginnings of names to pass over, with commas between
name       of the model (the file's)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from adit_scale.models.import_adit import Imported

KEYS = ("out", "weights", "data", "autoencoder_heads", "denoiser_heads", "ignore", "name")
_CARD = """\
# {name}

A published model of all-atom diffusion ([ADiT](https://arxiv.org/abs/2503.03965)), imported from `{file}`
(sha256 `{sha256}`), {weights}. Its licence is that of the file.

{table}

```
adit sample run={folder} out=samples n=100{sizes}
```
"""


def main(words: Sequence[str], prog: str = "adit import-adit") -> int:
    """Returns 0. Raises AditError, OSError."""
    if not words or {"-h", "--help"} & set(words):
        usage = (__doc__ or "").partition("\n\n")[2].partition("FILE       ")
        print(f"usage: {prog} FILE out=FOLDER [KEY=VALUE ...]\n\n{usage[1]}{usage[2]}", end="")
        return 0
    from adit_scale.errors import ConfigError
    from adit_scale.jobs.sample_words import key_values, whole_number
    from adit_scale.models.adit_state import known_words
    from adit_scale.models.import_adit import Heads, import_adit

    files = [word for word in words if word.partition("=")[0] not in KEYS]
    said = key_values([word for word in words if word not in files], KEYS, prog)
    if len(files) != 1:
        key_values([word for word in files if "=" in word], KEYS, prog)  # an unknown key, more likely
        raise ConfigError(f"{len(files)} files; expected one checkpoint: {prog} FILE out=FOLDER")
    if not said.get("out"):
        raise ConfigError("out is missing; expected out=FOLDER, a new folder for the model")
    path, out = Path(files[0]), Path(said["out"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: not an empty folder; expected a new one (out=...)")
    heads = Heads(*(whole_number(k, said.get(k, "0"), 0) for k in ("autoencoder_heads", "denoiser_heads")))
    ignore = [prefix for prefix in said.get("ignore", "").split(",") if prefix]
    data = _described(said["data"]) if said.get("data") else {}
    found = import_adit(path, heads, known_words(said.get("weights", "")), ignore)
    rows = _table(found)
    print("\n".join(_columns(rows)))
    for line in _remarks(found):
        print(line)
    _write(out, found, path, said.get("name") or path.stem, data, rows)
    sizes = (
        ""
        if data
        else " data=SHARDS (or atoms=N: the checkpoint does not hold the sizes of its training data)"
    )
    print(f"{out}: written; adit sample run={out} out=FOLDER n=100{sizes}")
    return 0


def _described(place: str) -> dict[str, Any]:
    """Sizes and names of the data sets at ``place``. Raises DataError."""
    from adit_scale.data.config import DataConfig
    from adit_scale.data.manifest import open_manifest
    from adit_scale.training.export import describe_data

    manifest = open_manifest(DataConfig(shards=place))
    return {**describe_data(manifest), "fingerprint": manifest.fingerprint}


def _table(found: Imported) -> list[tuple[str, ...]]:
    a, d = found.autoencoder.config, found.denoiser.config

    def row(name: str, network: nn.Module, width: int, depth: str, heads: int) -> tuple[str, ...]:
        how = "assumed" if name in found.assumed else "as given"
        n_parameters = sum(p.numel() for p in network.parameters())
        read = [t for key, t in found.state.tensors.items() if key.startswith(f"{name}.")]
        dtypes = "+".join(sorted({str(t.dtype).removeprefix("torch.") for t in read}))
        heads_text = f"{heads} ({how})"
        return (
            name,
            str(width),
            depth,
            heads_text,
            f"{n_parameters:,}",
            str(len(read)),
            dtypes,
            found.state.roots[name],
        )

    return [
        ("network", "width", "depth", "heads", "parameters", "tensors", "stored as", "named"),
        row("autoencoder", found.autoencoder, a.width, f"{a.encoder_depth}+{a.decoder_depth}", a.heads),
        row("denoiser", found.denoiser, d.width, str(d.depth), d.heads),
    ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _remarks(found: Imported) -> list[str]:
    lines = []
    if found.assumed:
        lines.append(f"heads of {' and '.join(found.assumed)}: those of the published model of this size")
    if found.state.averages:
        other = "plain" if found.state.chosen == "ema" else "averaged"
        lines.append(f"weights={found.state.chosen}; the {other} ones were passed over")
    if found.passed_over:
        lines.append(
            f"passed over as asked: {', '.join(found.passed_over[:3])} ({len(found.passed_over)} tensors)"
        )
    return lines


def _write(
    out: Path, found: Imported, path: Path, name: str, data: dict[str, Any], rows: Sequence[Sequence[str]]
) -> None:
    """The folder of an export, whose config.json comes last: now it is whole."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    from adit_scale.diffusion.config import SamplingConfig
    from adit_scale.jobs.node import file_digest
    from adit_scale.training import pretrained, weights
    from adit_scale.training.checkpoint import replace_synced

    networks = {"autoencoder": found.autoencoder, "denoiser": found.denoiser}
    states = {key: network.state_dict() for key, network in networks.items()}
    sha256 = file_digest(path)
    config = {
        "pretrained_version": pretrained.FORMAT_VERSION,
        "name": name,
        "networks": {
            "autoencoder": asdict(found.autoencoder.config),
            "denoiser": asdict(found.denoiser.config),
        },
        "weights": found.state.chosen,
        "weights_sha256": {key: weights.digest(state) for key, state in states.items()},
        "sampling": {
            k: v
            for k, v in asdict(SamplingConfig()).items()
            if k not in ("crystals", "molecules", "batch_atoms", "cuda_graphs", "compile")
        },
        "data": data,
        "imported": {"file": path.name, "sha256": sha256, **found.state.facts},
    }
    out.mkdir(parents=True, exist_ok=True)
    for key, state in states.items():
        save_file({n: t.contiguous() for n, t in state.items()}, out / pretrained.weights_file(key))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    card = _CARD.format(
        name=name,
        file=path.name,
        sha256=sha256,
        weights="averaged weights" if found.state.chosen == "ema" else "weights as trained",
        table="\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]),
        folder=out.name,
        sizes="" if data else " atoms=9",
    )
    (out / pretrained.CARD_FILE).write_text(card, encoding="utf-8")
    replace_synced(out / pretrained.CONFIG_FILE, json.dumps(config, indent=1).encode())
