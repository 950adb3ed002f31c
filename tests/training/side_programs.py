"""Programs of a few lines in place of the process that scores samples: quick to start, bad on purpose."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

SCORES = """
values = {"samples/rate": step / 8}
finish(folder, {"values": values, "clock": {"time_s": 7.0 + step, "draw_s": 0.5}})
"""
CRASHES_AT_2 = "if step == 2: raise RuntimeError('a bond of 300 electrons')" + SCORES
HANGS_AT_2 = "if step == 2: time.sleep(600)" + SCORES
NEVER = "time.sleep(600)"


# A number that any other bit of the weights changes.
DIGESTS = """
import hashlib
number = int(hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:12], 16)
finish(folder, {"values": {"samples/number": number}, "clock": {"time_s": time.time()}})
"""


def program(path: Path, body: str) -> list[str]:
    """The command of a scorer that does ``body`` with the oldest snapshot; written to ``path``.

    It imports little, and ends with the process that starts it.
    """
    text = f"""
import ctypes, json, sys, time
from pathlib import Path
ctypes.CDLL(None).prctl(1, 9)
root = Path(sys.argv[1])
def finish(folder, result):
    (folder / "part").write_text(json.dumps(result))
    (folder / "part").rename(folder / "result.json")
    (folder / "weights.safetensors").unlink()
while True:
    folders = [path for path in sorted(root.glob("step_*[0-9]")) if not (path / "result.json").exists()]
    if not folders:
        time.sleep(0.01)
        continue
    folder = folders[0]
    step = int(folder.name[5:])
{textwrap.indent(body, "    ")}
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [sys.executable, str(path)]
