"""``python -m adit_scale.data build SOURCES... --out DIR`` and ``verify DIR``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from adit_scale.data.build import REJECTED_FILE, build
from adit_scale.data.config import DataConfig
from adit_scale.data.manifest import Manifest
from adit_scale.data.shards import verify
from adit_scale.errors import AditError, one_line


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "build":
            _build(options)
        else:
            manifest = verify(options.folder)
            print(f"{options.folder}: every block is as it was written")
            _print_table(manifest)
    except (AditError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = DataConfig()
    parser = argparse.ArgumentParser(prog="python -m adit_scale.data", description="Build and check shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="convert raw files into shards")
    make.add_argument("sources", nargs="+", type=Path, help="extended xyz or CDVAE csv files, .gz allowed")
    make.add_argument("--out", required=True, type=Path, help="folder of the data set; must be new or empty")
    make.add_argument("--validation-fraction", type=float, default=defaults.validation_fraction)
    make.add_argument("--test-fraction", type=float, default=defaults.test_fraction)
    make.add_argument("--block-sets", type=int, default=defaults.block_sets, help="sets a block")
    make.add_argument("--max-atoms", type=int, default=0, help="leave larger structures out; 0 keeps all")
    make.add_argument("--overwrite", action="store_true", help="replace a data set that stands there")
    check = commands.add_parser("verify", help="read everything and check every digest")
    check.add_argument("folder", type=Path)
    return parser


def _build(options: argparse.Namespace) -> None:
    config = DataConfig(
        name=options.out.name,
        shards=str(options.out),
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        block_sets=options.block_sets,
        max_atoms=options.max_atoms,
    )
    manifest = build(options.sources, options.out, config, _Progress(), options.overwrite)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    _print_table(manifest)
    rejected = [json.loads(line) for line in (options.out / REJECTED_FILE).read_text().splitlines()]
    if rejected:
        first = rejected[0]
        print(f"{len(rejected)} left out, listed in {options.out / REJECTED_FILE}; the first, "
              f"{first['source']} {first['id']}: {first['reason']}")  # fmt: skip


class _Progress:
    """Counts on one changing line of a terminal, or a plain line now and then in a log."""

    def __init__(self) -> None:
        self._shown_s = time.monotonic()

    def __call__(self, name: str, count: int) -> None:
        on_terminal = sys.stderr.isatty()
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.1 if on_terminal else 10.0):
            return
        self._shown_s = now_s
        line = f"reading {name}: {count} structures"
        print(f"\r{line:60}" if on_terminal else line, end="" if on_terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip


def _print_table(manifest: Manifest) -> None:
    print(f"{'data set':24} {'domain':18} {'train':>8} {'val':>7} {'test':>7} {'left out':>9}")
    for name in manifest.datasets:
        row = manifest.descriptions[name]
        n_sets = row["n_sets"]
        print(f"{name:24} {row['domain']:18} {n_sets['train']:8} {n_sets['val']:7} {n_sets['test']:7} "
              f"{row['n_rejected']:9}")  # fmt: skip
    print(f"fingerprint {manifest.fingerprint}")


if __name__ == "__main__":
    sys.exit(main())
