"""The words of launch.py: a verb, names of points or jobs, options, and overrides. No heavy imports."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from adit_scale.errors import ConfigError

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
LINES = 200
NAMING = ("logs", "retry", "cancel")  # verbs that take names of points or jobs
OPTIONS = {"json": ("plan", "status"), "watch": ("status",), "follow": ("logs",), "lines": ("logs",)}


@dataclass(frozen=True)
class Words:
    """What a command line asks for. overrides: Hydra's. names: of points or jobs. lines: of a log."""

    verb: str
    overrides: tuple[str, ...]
    names: tuple[str, ...]
    json: bool
    watch: bool
    follow: bool
    lines: int


def parse(argv: Sequence[str]) -> Words:
    """Raises ConfigError for a word that is neither verb, name, option nor override."""
    options = _parser().parse_intermixed_args(argv)
    words: list[str] = options.words
    verb = words.pop(0) if words and words[0] in VERBS else "submit"
    if not all(word.strip() for word in words):
        raise ConfigError("got an empty word; expected a verb, a name or key=value")
    names = tuple(word for word in words if "=" not in word and not word.startswith("~"))
    if names and verb not in NAMING:
        close = difflib.get_close_matches(names[0], VERBS, n=1)
        raise ConfigError(
            f"{names[0]}: neither a verb ({', '.join(VERBS)}; it comes first) nor an override key=value"
            + (f" (did you mean {close[0]}?)" if close and close[0] != names[0] else "")
        )
    for option, verbs in OPTIONS.items():
        if getattr(options, option) not in (None, False) and verb not in verbs:
            raise ConfigError(f"--{option} is an option of {' and '.join(verbs)}; got it with {verb}")
    return Words(
        verb,
        tuple(word for word in words if word not in names),
        names,
        options.json,
        options.watch,
        options.follow,
        LINES if options.lines is None else options.lines,
    )


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see python launch.py --help")


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
    parser = _Parser(
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
    parser.add_argument("-n", "--lines", type=int, help=f"logs: so many last lines ({LINES})")
    parser.add_argument("-h", "--help", nargs=0, action=_Help, help="show this help and every choice")
    return parser
