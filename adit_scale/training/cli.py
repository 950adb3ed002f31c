"""The commands of ``adit checkpoint``: what a run has saved, whether it is whole, and a model made of it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from adit_scale.cli import Parser
from adit_scale.errors import CheckpointError, size_text

COLUMNS = ("step", "saved", "size", "ranks", "zero", "committed", "tags", "validation loss")


def main(words: Sequence[str], prog: str = "adit checkpoint") -> int:
    """Run one command. Returns 0, or 1 where `verify` finds damage. Raises AditError, OSError."""
    options = _parser(prog).parse_args(words)
    return int(options.run(options))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description="Checkpoints of training runs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="a table of a run's checkpoints")
    ls.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a training run")
    ls.set_defaults(run=_ls)
    verify = commands.add_parser("verify", help="check every file; exit 1 where one is damaged")
    verify.add_argument("source", type=Path, metavar="RUN_OR_STEP", help="a run's folder, or a step's")
    verify.set_defaults(run=_verify)
    export = commands.add_parser("export", help="weights, settings and a model card for load_pretrained")
    export.add_argument("source", type=Path, metavar="RUN_OR_STEP", help="of a run, the newest checkpoint")
    export.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export.add_argument(
        "--what",
        choices=("ema", "weights"),
        default="ema",
        help="averaged (default), or as they are",
    )
    export.add_argument(
        "--autoencoder", type=Path, metavar="FOLDER", help="weights folder of the run that made the latents"
    )
    export.set_defaults(run=_export)
    return parser


def _ls(options: argparse.Namespace) -> int:
    from adit_scale.training import checkpoint

    rows = [_row(folder) for folder in reversed(checkpoint.folders(_root(options.run_folder)))]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(folder: Path) -> tuple[str, ...]:
    from adit_scale.training import checkpoint

    size = size_text(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
    step = str(checkpoint.step_of(folder))
    whole = checkpoint.is_committed(folder)
    try:
        state = checkpoint.read_state(folder)
    except CheckpointError:  # a save that was cut short has none
        return step, "-", size, "-", "-", "damaged" if whole else "no", "", ""
    loss = state.validation.get("loss")
    return (
        step,
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.time_s)) if state.time_s else "-",
        size,
        str(state.world_size),
        str(state.config.get("parallel", {}).get("zero_stage", "-")),
        "yes" if whole else "no",
        " ".join(state.tags),
        "" if loss is None else f"{loss:.5g}",
    )


def _verify(options: argparse.Namespace) -> int:
    from adit_scale.training import checkpoint

    source: Path = options.source
    one = source.name.startswith("step-")
    folders = [source] if one else list(reversed(checkpoint.folders(_root(source))))
    damaged = 0
    for folder in folders:
        if not one and not checkpoint.is_committed(folder):
            print(f"{folder.name}: no marker, its save was cut short; a run passes over it")
            continue
        try:
            n_bytes = checkpoint.verify(folder)
            checkpoint.read_state(folder)
        except CheckpointError as error:
            damaged += 1
            print(f"damaged: {error}", file=sys.stderr)
            continue
        print(f"{folder.name}: whole, {size_text(n_bytes)}")
    return 1 if damaged else 0


def _export(options: argparse.Namespace) -> int:
    from adit_scale.training.export import export

    folder = export(options.source, options.to, options.what, options.autoencoder)
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    print(f'{folder}: {size_text(n_bytes)}; open it with adit_scale.load_pretrained("{folder}")')
    return 0


def _root(run: Path) -> Path:
    """The checkpoints' folder of a run. Raises CheckpointError where there is none."""
    root = run if run.name == "checkpoints" else run / "checkpoints"
    if not root.is_dir():
        raise CheckpointError(f"{root}: no such folder; expected the folder of a training run")
    return root
