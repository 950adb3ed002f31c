"""``python -m adit_scale.data``: the same commands as ``adit data``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from adit_scale.cli import main as adit


def main(arguments: Sequence[str] | None = None) -> int:
    return adit(["data", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
