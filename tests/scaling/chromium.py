"""A chromium without a window, driven over a pipe: what a page says, requests and looks like.

Chromium's own protocol (DevTools) over two file descriptors: no port is opened, no package is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "remote-debugging-pipe",
           # One process for page and frame, so that one session sees both.
           "disable-features=IsolateSandboxedIframes", "disable-background-networking",
           "hide-scrollbars=false")  # fmt: skip


class Browser:
    """One page. console: errors and warnings, exceptions nobody caught. requests: addresses asked for."""

    def __init__(self, profile: Path, timeout: float = 60.0) -> None:
        self.timeout, self._n, self._session = timeout, 0, ""
        self.console: list[str] = []
        self.requests: list[str] = []
        there, self._to = os.pipe()
        self._from, back = os.pipe()
        flags = [f"--{option}" for option in (*OPTIONS, f"user-data-dir={profile}")]
        # Chromium reads its orders from descriptor 3 and answers on 4.
        line = f'exec 3<&{there} 4>&{back}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", str(CHROMIUM), *flags, "about:blank"],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        os.set_blocking(self._from, False)
        self._rest = b""

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0,
                  downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One order and its answer; what the page reports meanwhile is kept."""
        self._n += 1
        order = {"id": self._n, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._to, json.dumps(order).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            for message in self._messages():
                if message.get("id") == self._n:
                    assert "error" not in message, f"{method}: {message['error']}"
                    return message["result"]
                self._keep(message.get("method", ""), message.get("params", {}))
        raise AssertionError(f"chromium did not answer {method} within {self.timeout:g} s")

    def _messages(self) -> list[dict[str, Any]]:
        try:
            found = os.read(self._from, 1 << 20)
        except BlockingIOError:
            time.sleep(0.01)
            return []
        assert found or self._process.poll() is None, "chromium ended early"
        *whole, self._rest = (self._rest + found).split(b"\0")
        return [json.loads(part) for part in whole]

    def _keep(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.console.append(f"{params['type']}: {[a.get('value') for a in params['args']]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, address: str, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=False)  # fmt: skip
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        end = time.monotonic() + self.timeout
        while not self.ask(condition):
            assert time.monotonic() < end, f"never true in the page: {condition}"
            time.sleep(0.05)

    def picture(self, path: Path) -> Path:
        """The whole page, to its end, as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
