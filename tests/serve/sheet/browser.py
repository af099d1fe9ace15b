"""A headless Chromium, driven through its DevTools protocol; it sees what a reviewer's browser does."""

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Enter": 13,
    "Escape": 27,
    "Backspace": 8,
    "p": 80,
}


class Browser:
    """One tab. What the page asked the network for is in `requests`, what it complained about in `complaints`."""

    def __init__(self, folder: Path):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        arguments = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--remote-debugging-port=0",
                     f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "about:blank")  # fmt: skip
        self._process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._number, self._events = 0, []
        self._closing = ExitStack()
        address = self._address(folder / "profile" / "DevToolsActivePort")
        self._socket = self._closing.enter_context(connect(address, max_size=None))
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def _address(self, file: Path, patience: float = 60.0) -> str:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if file.exists() and len(lines := file.read_text().split()) > 1:
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                    pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(0.1)
        raise AssertionError("Chromium did not start")

    def call(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def open(self, path: Path):
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression, patience: float = 30.0):
        deadline = time.monotonic() + patience
        while not self.js(expression):
            assert time.monotonic() < deadline, f"{expression} did not come true"
            time.sleep(0.05)

    def press(self, *keys):
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {}
            named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    @property
    def requests(self):
        sent = [event["params"]["request"]["url"] for event in self._events
                if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in sent if not url.startswith("data:")]

    @property
    def complaints(self):
        return [event for event in self._events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]

    def close(self):
        self._closing.close()
        self._process.terminate()
        self._process.wait(timeout=30)
