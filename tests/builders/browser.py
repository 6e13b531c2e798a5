"""A headless Chromium for tests of pages, driven over its DevTools protocol by a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
    "--disable-extensions", "--disable-component-update", "--mute-audio",
)  # fmt: skip
LONGEST = 60  # seconds until an answer or a state of the page is given up
# The browser reads commands from file 3 and writes answers to file 4.
AS_3_AND_4 = """
import fcntl, os, sys
for own, place in zip([fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]], (3, 4)):
    os.dup2(own, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab of a Chromium: commands of the protocol, and the events that came meanwhile.

    Attributes:
        events: as the protocol has them, in their order.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._rest, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; RuntimeError if the browser refuses it."""
        self._count += 1
        own = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            own["sessionId"] = self._session
        os.write(self._out, json.dumps(own).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], LONGEST)[0]:
                raise TimeoutError("the browser does not answer")
            read = os.read(self._in, 1 << 16)
            if not read:
                raise RuntimeError("the browser has ended")
            self._rest += read
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def open(self, path: Path | str, *, width: int = 1280, dark: bool = False) -> float:
        """Open a file; the seconds until the page was loaded."""
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        return (
            self.run("performance.timing.loadEventEnd - performance.timing.navigationStart") / 1e3
        )

    def run(self, expression: str) -> Any:
        """The value of JavaScript in the page; a promise is awaited."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True,
                          returnByValue=True, userGesture=True)  # fmt: skip
        if "exceptionDetails" in found:
            raise RuntimeError(_words(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until JavaScript in the page is true."""
        end = time.monotonic() + LONGEST
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key, e.g. `Tab`, `Enter` or `Escape`, where the page's focus is."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39,
                 "ArrowDown": 40}  # fmt: skip
        own = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": codes[key],
        }
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **own, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **own)

    def troubles(self) -> list[str]:
        """Errors on the console, exceptions, and addresses other than of files and of data."""
        found = []
        for event in self.events:
            own, method = event.get("params", {}), event.get("method")
            if method == "Runtime.exceptionThrown":
                found.append(_words(own["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and own["type"] in ("error", "warning"):
                found.append(json.dumps(own["args"])[:500])
            elif method == "Log.entryAdded" and own["entry"]["level"] in ("error", "warning"):
                found.append(own["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = own["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:", "about:")):
                    found.append(f"request to {url}")
        return found

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, all of it or what is seen."""
        height = self.run("document.documentElement.scrollHeight") if whole else 900
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 12_000), "scale": 1}
        found = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own, which ends with the block."""
    assert CHROMIUM is not None, "no Chromium on this machine"
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ends = to_browser[0], from_browser[1]
        process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, *map(str, ends), CHROMIUM, *FLAGS,
             f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=ends,
        )  # fmt: skip
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Browser(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])  # on which the browser ends itself
            os.close(from_browser[0])
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _words(details: dict[str, Any]) -> str:
    """What an exception of JavaScript says."""
    return str(details.get("exception", {}).get("description", details["text"]))
