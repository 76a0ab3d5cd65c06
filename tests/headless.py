"""A headless Chromium, driven over a pipe by the DevTools protocol: no driver, no port and no package is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0
"""For one answer."""


def installed() -> str | None:
    """The path of a Chromium; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. What it says on its console, or fails at, is in `complaints`."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._ids = send, receive, itertools.count(1)
        self._buffer, self._session, self._events = b"", "", set[str]()
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        os.write(
            self._send, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (answer := self._next()).get("id") != number:
            self._hear(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file, and wait until it has loaded."""
        self._events.discard("Page.loadEventFired")
        self.call("Page.navigate", url=path.absolute().as_uri() + fragment)
        while "Page.loadEventFired" not in self._events:
            self._hear(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression, a promise's too."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    def window(
        self, width: int, height: int = 900, *, dark: bool = False, media: str = "", still: bool = False
    ) -> None:
        """The size of the window, and what its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        preferred = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in preferred.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def press(self, key: str) -> None:
        """Press a key, such as "Tab" or "Enter"."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def picture(self, path: Path, height: int | None = None) -> None:
        """A PNG of the window, or of so much of the page from its top."""
        clip = {}
        if height:
            width = self.run("innerWidth")
            clip = {
                "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
                "captureBeyondViewport": True,
            }
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], SECONDS)[0]:
                raise AssertionError(f"Chromium said nothing for {SECONDS:g} seconds")
            read = os.read(self._receive, 1 << 20)
            if not read:
                raise AssertionError("Chromium ended")
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, said = message.get("method", ""), message.get("params", {})
        self._events.add(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            self.complaints.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(said["args"]))
        elif method == "Network.requestWillBeSent" and not said["request"]["url"].startswith(
            ("file:", "data:", "blob:")
        ):
            self.complaints.append(f"fetches {said['request']['url']}")


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium, which ends with the block."""
    command = installed()
    assert command, "look for it with `installed` first"
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = (
            *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(
                "--no-first-run",
                "--disable-extensions",
                "--disable-background-networking",
                f"--user-data-dir={profile}",
            ),
        )
        # Chromium reads commands from descriptor 3 and answers on 4
        line = 'exec "$@" 3<&"$FROM" 4>&"$TO"'
        process = subprocess.Popen(
            ["bash", "-c", line, "bash", command, *options],
            pass_fds=(from_us, to_us),
            env=os.environ | {"FROM": str(from_us), "TO": str(to_us)},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_browser)
            os.close(from_browser)
