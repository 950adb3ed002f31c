"""Run a scaling study: ``python launch.py [VERB] [key=value ...]``; see --help.

Words are Hydra overrides. This file only hands them on: parsing is launchers/words.py, composing
launchers/compose.py, the graph of jobs launchers/graph.py, running it launchers/local.py or slurm.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 a mistake in the words, 128 + n on signal n."""
    from adit_scale.errors import AditError, one_line
    from launchers.words import parse

    try:
        words = parse(argv)
        from launchers import study  # after the words: it takes a moment to import

        return study.run(words)
    except BrokenPipeError:  # of `launch.py status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (AditError, OSError) as error:
        print(f"launch.py: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
