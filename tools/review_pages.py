"""Pictures of what a reviewer sees in MLflow, for docs/review.md: a submission's runs, one run, one version.

    LORAFLEET_HOME=... python tools/review_pages.py SUBMISSION --out docs

Starts MLflow's server with `lorafleet ui`, and drives a Chromium without a window by ChromeDriver's own protocol
(Debian's packages chromium and chromium-driver), so that nothing has to be installed for Python.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from lorafleet.home import Home
from lorafleet.tracking.client import connect
from lorafleet.tracking.links import TRAINING
from lorafleet.tracking.pages import page_of

PATIENCE = 120.0
"""Seconds that a server or a page is given."""
COLOURS = 128
"""Of a picture's palette: a page is small so, and reads as well."""
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ASSISTANT = """localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"""
"""Shuts the panel that MLflow opens over a third of the first page."""


class Browser:
    """A Chromium without a window."""

    def __init__(self, port: int, width: int = 1440, height: int = 1000) -> None:
        """`port` is that of a ChromeDriver."""
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False)
        arguments = [*ARGUMENTS, f"--window-size={width},{height}"]
        options = {"args": arguments, "binary": chromium()}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = f"/session/{self._ask('/session', wanted)['sessionId']}"

    def open(self, url: str, *words: str) -> None:
        """Opens a page and waits until it shows all the words. Raises TimeoutError."""
        self._ask(f"{self._session}/url", {"url": "about:blank"})  # a new part behind # alone loads nothing
        self._ask(f"{self._session}/url", {"url": url})
        deadline = time.monotonic() + PATIENCE
        while not all(word in self.text() for word in words):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} does not show {words}, but {self.text()[:2000]!r}")
            time.sleep(0.5)
        self.wait_for_pictures()

    def wait_for_pictures(self) -> None:
        """Waits until the page's pictures have come, and a moment more."""
        deadline = time.monotonic() + PATIENCE
        came = "return [...document.images].every(one => one.complete)"
        while not self.run(came) and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(3)

    def click(self, where: str) -> None:
        """Clicks on the first element that an XPath finds, as a mouse does."""
        found = self._ask(f"{self._session}/element", {"using": "xpath", "value": where})
        self._ask(f"{self._session}/element/{next(iter(found.values()))}/click", {})
        time.sleep(1)

    def text(self) -> str:
        """What the page says."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def pictures(self) -> list[str]:
        """The addresses of the pictures on the page that have come."""
        return list(self.run("return [...document.images].filter(one => one.naturalWidth).map(one => one.src)"))

    def run(self, script: str) -> Any:
        """What a script on the page returns."""
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def picture(self) -> Image.Image:
        """The page as it is."""
        data = self._http.get(f"{self._session}/screenshot").json()["value"]
        return Image.open(io.BytesIO(base64.b64decode(data)))

    def close(self) -> None:
        """Ends the browser."""
        self._http.delete(self._session)
        self._http.close()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body)
        value = answer.json()["value"]
        if answer.is_error:
            raise RuntimeError(f"{path}: {value['error']}: {value['message'][:500]}")
        return value


def chromium() -> str | None:
    """The program, or None."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Returns once somebody listens; raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"nobody listens on port {port}")


def wait_until_healthy(server: str) -> None:
    """Returns once MLflow's server answers, some seconds after it listens; raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{server}health", trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.5)
    raise TimeoutError(f"{server} does not answer")


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """A browser."""
    port = free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        browser = Browser(port)
        yield browser
        browser.close()
    finally:
        driver.terminate()
        driver.wait()


@contextlib.contextmanager
def pages_served() -> Iterator[str]:
    """`lorafleet ui` on the home of the environment; its address."""
    port = free_port()
    command = [sys.executable, "-m", "lorafleet", "ui", "--port", str(port), "--no-open"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def take(browser: Browser, server: str, submission: str) -> dict[str, Image.Image]:
    """Pictures of the pages of a submission and of its first adapter, by the name of the file they belong in."""
    uri = Home.from_environment().tracking_uri
    compared = page_of(uri, submission)
    client: Any = connect(uri)
    experiment = compared.split("/")[2]
    run = next(one for one in client.search_runs([experiment]) if one.data.tags.get("adapter_version"))
    name, adapter = run.info.run_name, run.data.tags["adapter"]
    browser.open(server, "Experiments")
    browser.run(ASSISTANT)
    pages = {
        "review-runs": (compared, name, "/adapter"),
        "review-prompts": (compared.replace("=CHART", "=ARTIFACT"), name, "validation.json"),
        "review-run": (f"#/experiments/{experiment}/runs/{run.info.run_id}/model-metrics?{TRAINING}", "/words only"),
        "review-version": (f"{page_of(uri, adapter).partition('?')[0]}/versions/1?{TRAINING}", "lorafleet generate"),
    }
    taken = {}
    for file, (page, *words) in pages.items():
        browser.open(server + page, *words)
        if file == "review-prompts":  # of a table's columns MLflow compares one of text until it is told otherwise
            browser.click("//button[contains(., 'Compare:')]")
            browser.click("//*[(@role='option' or starts-with(@role, 'menuitem')) and contains(., 'picture')]")
            browser.wait_for_pictures()
        taken[file] = browser.picture()
    return taken


def main() -> None:
    """Writes one PNG a page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("submission")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    wanted = parser.parse_args()
    with pages_served() as server, browsing() as browser:
        for file, picture in take(browser, server, wanted.submission).items():
            small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            small.save(wanted.out / f"{file}.png", optimize=True)
            print(json.dumps({"file": str(wanted.out / f"{file}.png"), "size": picture.size}))


if __name__ == "__main__":
    main()
