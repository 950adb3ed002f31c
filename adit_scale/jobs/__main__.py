"""Run one node: ``python -m adit_scale.jobs NODE_FOLDER``. Leaves DONE.json, or FAILED.json and status 1."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import TracebackType

from adit_scale import config as settings
from adit_scale.errors import AditError, WorkerLost
from adit_scale.jobs.node import CONFIG, FAILED, NodeBusy, NodeFolder, running_lock

KINDS = {
    "shards": "adit_scale.jobs.shards",
    "autoencoder": "adit_scale.jobs.training",
    "diffusion": "adit_scale.jobs.training",
    "reference": "adit_scale.jobs.reference",
    "evaluation": "adit_scale.jobs.evaluation",
    "report": "adit_scale.jobs.report",
}


def main(folder: Path) -> None:
    try:
        node = NodeFolder.load(folder.absolute())
    except AditError as error:
        sys.exit(str(error))
    try:
        with running_lock(node.path):
            run(node)
    except NodeBusy as busy:
        sys.exit(str(busy))


def run(node: NodeFolder) -> None:
    """Run the node's kind; whatever ends it leaves its marker."""
    start = time.monotonic()
    (node.path / FAILED).unlink(missing_ok=True)

    def record_failure(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """A user's mistake is one line; anything else keeps its traceback in the log."""
        if isinstance(error, KeyboardInterrupt):
            return  # stopped from outside: nothing failed, the next launch goes on
        line = (str(error).strip().splitlines() or [""])[0]
        expected = isinstance(error, AditError)
        final = expected and not isinstance(error, WorkerLost)
        node.fail(line if expected else f"{kind.__name__}: {line}", time.monotonic() - start, final)
        if expected:
            print(line, file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = record_failure
    config = settings.load(node.path / CONFIG)
    node.verify_inputs()
    result = importlib.import_module(KINDS[node.kind]).run(node, config)
    node.succeed(result, time.monotonic() - start)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m adit_scale.jobs NODE_FOLDER")
    main(Path(sys.argv[1]))
