"""Run a scaling study: ``python launch.py [VERB] [key=value ...]``; see --help.

Words are Hydra overrides. This file only parses them: composing is launchers/compose.py, the graph of jobs
launchers/graph.py, running it launchers/local.py or launchers/slurm.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

VERBS = {
    "submit": "run what is missing of the study (the default)",
    "plan": "the points, what they cost, and whether that is within the budget; runs nothing (--json)",
    "status": "the state of every job (--json; --watch until the study ends)",
    "logs": "the log of a point or job (-f follows it; -n LINES)",
    "retry": "run again what failed, or the points and jobs named",
    "cancel": "take the study's jobs, or the points and jobs named, out of SLURM's queue",
    "fit": "make the report now, of the points there are",
    "sync": "write to the tracking store whatever of the study is missing there",
}
NAMING = ("logs", "retry", "cancel")  # verbs that take names of points or jobs


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 a mistake in the words, 128 + n on signal n."""
    from adit_scale.errors import AditError, one_line  # late, so that a broken install still shows the help

    try:
        options = _parser().parse_intermixed_args(argv)
        words: list[str] = options.words
        verb = words.pop(0) if words and words[0] in VERBS else "submit"
        names = [word for word in words if "=" not in word and not word.startswith("~")]
        overrides = [word for word in words if word not in names]
        if names and verb not in NAMING:
            raise AditError(
                f"{names[0]}: neither a verb ({', '.join(VERBS)}; it comes first) nor an override key=value"
            )
        from launchers import study

        return study.run(verb, overrides, names, options)
    except BrokenPipeError:  # of `launch.py status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (AditError, OSError) as error:
        print(f"launch.py: {one_line(error)}", file=sys.stderr)
        return 2


class _Help(argparse.Action):
    """Help with the choices of every group: read from configs/ only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from launchers.compose import choices

        parser.print_help()
        print("\ngroups (GROUP=CHOICE):")
        for group, names in choices().items():
            print(f"  {group:<18} {', '.join(names)}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {name:<7} {text}" for name, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="launch.py",
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python launch.py [VERB] [NAME ...] [KEY=VALUE ...]",
        description=f"Run a scaling study of all-atom diffusion transformers.\n\nverbs:\n{verbs}",
        epilog=(
            "examples:\n"
            "  python launch.py sweep=scaling_demo\n"
            "  python launch.py plan sweep=scaling\n"
            "  python launch.py sweep=scaling launcher=slurm launcher.partition=gpu\n"
            "  python launch.py status sweep=scaling --watch\n"
            "  python launch.py logs dit_b -f sweep=scaling\n"
            "  python launch.py sweep=scaling_demo data=files 'data.sources=[a.extxyz.gz,b.csv.gz]'\n"
            "  python launch.py model/denoiser=dit_64,dit_128 seed=0,1,2 diffusion.steps=2000\n"
            "Launching again runs only what is missing or failed."
        ),
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="plan, status: for scripts")
    parser.add_argument("--watch", action="store_true", help="status: until the study ends")
    parser.add_argument("-f", "--follow", action="store_true", help="logs: until the job ends")
    parser.add_argument("-n", "--lines", type=int, default=200, help="logs: so many last lines")
    parser.add_argument("-h", "--help", nargs=0, action=_Help, help="show this help and every choice")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
