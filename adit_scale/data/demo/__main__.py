"""``python -m adit_scale.data.demo``: build the demo corpus (about half a minute on one core)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from adit_scale.data.demo import N_CRYSTALS, N_MOLECULES, build_demo
from adit_scale.errors import AditError, one_line


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 2 with one line on stderr for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m adit_scale.data.demo", description="Build the demo corpus."
    )
    parser.add_argument("--out", type=Path, default=Path("shards/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that stands there")
    options = parser.parse_args(arguments)
    try:
        manifest = build_demo(options.out, _show_progress, options.overwrite)
    except (AditError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    for name in manifest.datasets:
        print(f"{name}: {sum(manifest.descriptions[name]['n_sets'].values())} structures")
    print(f"{options.out}: fingerprint {manifest.fingerprint}")
    return 0


def _show_progress(stage: str, done: int, total: int | None) -> None:
    """A line that counts up on a terminal, a line now and then in a log."""
    total = total or N_MOLECULES + N_CRYSTALS
    terminal = sys.stderr.isatty()
    if done % (20 if terminal else 500) == 0 or done == total:
        end = "\r" if terminal and done < total else "\n"
        print(f"{stage}: {done} of {total}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
