"""Drives headless Chromium over its debugging pipe: pages are opened, clicked and measured, and everything they say is kept.

The pipe needs no package and opens no port. The browser can resolve no host; of addresses it reaches the loopback.
"""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
LOOPBACK = "127.0.0.1"
PATIENCE_S = 120  # a hang must end, a busy machine must not
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


class Tab:
    """One page. `console` has what was logged, thrown or refused; `requests` every URL asked for but data and the page."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._number, self._session, self._buffer = 0, "", b""
        self.console: list[str] = []
        self.requests: list[str] = []
        self.url, self._loaded = "", False
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._heard(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, url: str, width: int, height: int, dark: bool = False, reduced_motion: bool = False) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if reduced_motion else "no-preference",
        }
        wanted = [{"name": name, "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=wanted)
        self.url, self._loaded = url, False
        self.command("Page.navigate", url=url)
        while not self._loaded:
            self._heard(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first match, scrolled into view."""
        code = (
            "(e => {e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            f"return [r.left, r.top, r.width, r.height]}})(document.querySelector({json.dumps(selector)}))"
        )
        left, top, width, height = self.run(code)
        return left, top, width, height

    def mouse(self, kind: str, x: float, y: float) -> None:
        """kind: mousePressed, mouseMoved or mouseReleased."""
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def key(self, name: str) -> None:
        code = {"Enter": 13, "Escape": 27, "ArrowRight": 39}[name]
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def screenshot(self, whole: bool = False) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        return picture

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], PATIENCE_S)
            assert ready, f"Chromium said nothing for {PATIENCE_S} s"
            data = os.read(self._receive, 1 << 20)
            assert data, "Chromium closed its pipe"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _heard(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.consoleAPICalled":
            self.console.append(str([said.get("value") for said in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith("data:") and url.partition("#")[0] != self.url.partition("#")[0]:
                self.requests.append(url)


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A tab of a new browser whose profile is in this folder."""
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    # The browser reads descriptor 3 and writes 4; a shell puts them there, since Popen keeps numbers as they are.
    shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    flags = [
        *FLAGS,
        "--remote-debugging-pipe",
        f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {LOOPBACK}",
        f"--user-data-dir={folder}",
    ]
    process = subprocess.Popen(
        ["bash", "-c", shell, str(CHROMIUM), *flags],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Tab(send, receive)
    finally:
        os.close(send)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(receive)
