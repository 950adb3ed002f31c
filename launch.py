"""Run a scaling study: ``python launch.py [submit|plan|status] [key=value ...]``; see --help.

Words are Hydra overrides. This file only parses them: composing is launchers/compose.py, the graph of jobs
launchers/graph.py, running it launchers/local.py or launchers/slurm.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

VERBS = {
    "submit": "run what is missing of the study (the default)",
    "plan": "print the table of points: size, parameters, atoms, epochs, FLOPs, status; run nothing",
    "status": "print the state of every job",
}


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 a mistake in the words, 128 + n on signal n."""
    from adit_scale.errors import AditError, one_line  # late, so that a broken install still shows the help

    words = _parser().parse_args(argv).words
    verb = words.pop(0) if words and words[0] in VERBS else "submit"
    try:
        if strange := [word for word in words if "=" not in word and not word.startswith("~")]:
            raise AditError(
                f"{strange[0]}: neither a verb ({', '.join(VERBS)}; it comes first) nor an override key=value"
            )
        from launchers import study

        return getattr(study, verb)(words)
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
        usage="python launch.py [VERB] [KEY=VALUE ...]",
        description=f"Run a scaling study of all-atom diffusion transformers.\n\nverbs:\n{verbs}",
        epilog=(
            "examples:\n"
            "  python launch.py sweep=scaling_demo\n"
            "  python launch.py plan sweep=scaling\n"
            "  python launch.py sweep=scaling_demo data=files 'data.sources=[a.extxyz.gz,b.csv.gz]'\n"
            "  python launch.py model/denoiser=dit_64,dit_128 seed=0,1,2 diffusion.steps=2000\n"
            "Launching again runs only what is missing or failed."
        ),
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", nargs=0, action=_Help, help="show this help and every choice")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
