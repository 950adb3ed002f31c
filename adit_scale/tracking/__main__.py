"""Mirror runs to a tracking store (sync, follow), and serve one (serve)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from adit_scale.errors import AditError, ConfigError, one_line
from adit_scale.tracking.config import URI_VARIABLE, TrackingConfig, without_credentials


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, 2 for a mistake in the words, 1 where something could not be mirrored or served."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s tracking: %(message)s", stream=sys.stderr)
    commands = {"sync": _sync, "follow": _follow, "serve": _serve}
    try:
        return commands[args.command](args)
    except (ConfigError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except AditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    defaults = TrackingConfig()
    parser = argparse.ArgumentParser(prog="python -m adit_scale.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    store = argparse.ArgumentParser(add_help=False)
    uri = os.environ.get(URI_VARIABLE) or defaults.uri
    store.add_argument(
        "--uri", default=uri, help=f"tracking store (default: ${URI_VARIABLE}, {defaults.uri})"
    )
    store.add_argument("--experiment", default=defaults.experiment, help="(default: %(default)s)")
    sync = commands.add_parser("sync", parents=[store], help="mirror all runs below a folder once")
    sync.add_argument("runs", type=Path, help="folder with one folder a study, or any folder of journals")
    follow = commands.add_parser(
        "follow", parents=[store], help="mirror one job until standard input ends; its supervisor starts it"
    )
    follow.add_argument("folder", type=Path, help="the job's folder")
    follow.add_argument("--interval-s", type=float, default=10.0, help="(default: %(default)s)")
    serve = commands.add_parser("serve", help="an MLflow server that many jobs can write to")
    serve.add_argument("--backend", default="", help="database (default: SQLite in the folder)")
    serve.add_argument("--folder", type=Path, default=Path("runs/tracking"), help="(default: %(default)s)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    serve.add_argument("--allowed-hosts", default="", help="names clients may reach it by, with --host")
    serve.add_argument("--workers", type=int, default=0, help="processes (default: by the database)")
    return parser


def _sync(args: argparse.Namespace) -> int:
    from adit_scale.tracking.sync import sync  # mlflow takes seconds to import: not for --help

    report = sync(args.runs, args.uri, args.experiment)
    store = f"{without_credentials(args.uri)} ({args.experiment})"
    print(f"{report.journals} journals, {report.values} new values -> {store}")
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def _follow(args: argparse.Namespace) -> int:
    from adit_scale.tracking.follower import follow

    follow(args.folder, args.uri, args.experiment, args.interval_s)
    return 0


def _serve(args: argparse.Namespace) -> int:
    from adit_scale.tracking.server import serve

    serve(args.backend, args.folder, args.host, args.port, args.allowed_hosts, args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
