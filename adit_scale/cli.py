"""``adit GROUP COMMAND``: one command line, in groups whose modules are loaded only when asked for."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from adit_scale import __version__
from adit_scale.errors import AditError, ConfigError, one_line

# What `adit --help` says of each group, and the module whose main(words, prog) runs it.
GROUPS = {
    "data": (
        "adit_scale.data.tools.commands",
        "fetch published data sets, build shards, look at them, check and export",
    ),
    "train": ("launchers.train", "one training run: start it, go on with it, let it decay in a branch"),
    "plan": ("launchers.plan", "memory of a training run and time of its steps, before it is started"),
    "checkpoint": ("adit_scale.training.cli", "list, verify and export what training runs have saved"),
    "sample": ("adit_scale.jobs.sample_cli", "draw molecules and crystals from a trained model"),
    "import-adit": ("adit_scale.jobs.import_cli", "a published ADiT checkpoint, as a model of ours"),
    "report": ("adit_scale.jobs.report_cli", "laws, figures and tables of one study, or of several together"),
    "advise": ("adit_scale.jobs.advise_cli", "what to train with a budget, from the surface of a study"),
    "evaluate": ("adit_scale.jobs.evaluate_cli", "score samples or data, compare, draw figures, DFT inputs"),
}
INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell reports SIGINT and SIGPIPE


class Parser(argparse.ArgumentParser):
    """Reports a mistake as ConfigError, so that it is said in one line as all others are."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 2 for a mistake of the user's, said in one line; 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(words[:1])
        group = importlib.import_module(GROUPS[options.group][0])
        status = int(group.main(words[1:], f"adit {options.group}"))
        sys.stdout.flush()  # here, where a closed pipe is no error; at exit it would be
        return status
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (AditError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="adit", description="Scaling studies of all-atom diffusion transformers.")
    parser.add_argument("--version", action="version", version=f"adit-scale {__version__}")
    groups = parser.add_subparsers(dest="group", required=True, metavar="GROUP")
    for name, (_, words) in GROUPS.items():
        groups.add_parser(name, help=words, add_help=False)
    return parser
