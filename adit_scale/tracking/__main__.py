"""``python -m adit_scale.tracking sync RUNS_FOLDER``: mirror all journals below a folder, once."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from adit_scale.errors import AditError, ConfigError, one_line
from adit_scale.tracking.config import TrackingConfig, without_credentials


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 2 for a mistake in the words, 1 where something could not be mirrored."""
    defaults = TrackingConfig()
    parser = argparse.ArgumentParser(prog="python -m adit_scale.tracking", description=__doc__)
    command = parser.add_subparsers(dest="command", required=True).add_parser("sync", help="mirror journals")
    command.add_argument("runs", type=Path, help="folder with one folder a study, or any folder of journals")
    command.add_argument("--uri", default=defaults.uri, help="tracking store (default: %(default)s)")
    command.add_argument("--experiment", default=defaults.experiment, help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)

    from adit_scale.tracking.sync import sync  # mlflow takes seconds to import: not for --help

    try:
        report = sync(args.runs, args.uri, args.experiment)
    except (ConfigError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except AditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    store = f"{without_credentials(args.uri)} ({args.experiment})"
    print(f"{report.journals} journals, {report.values} new values -> {store}")
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
