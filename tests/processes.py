"""Starting real processes from tests."""

from __future__ import annotations

import signal


def hear_ctrl_c() -> None:
    """For ``preexec_fn``: a child of a shell's background job is born deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
