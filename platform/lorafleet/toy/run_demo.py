"""The demo: trains and serves made-up subjects as any user would, over HTTP, and puts their pictures on one sheet."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from rich.console import Console

from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet.toy.sheet import contact_sheet
from lorafleet.toy.subjects import Subject, write_manifest, write_subjects
from lorafleet.toy.world import BACKGROUNDS
from lorafleet.util.http_client import Client

NOUNS = ("mug", "dog", "house", "mug", "car", "fish")
CONCURRENT = 12
BACKGROUND_NAMES = ("beach", "night", "bricks")
SEED = 7


def run_demo(base: str, folder: Path, port: int, stay: bool) -> int:
    """Renders subjects, trains and serves them, asks for their pictures; returns the exit code."""
    console, started = Console(stderr=True, soft_wrap=True), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    subjects = write_subjects(folder / "photos", NOUNS)
    manifest = folder / "demo.yaml"
    write_manifest(manifest, "demo", base, subjects)
    console.print(
        f"[bold]1.[/] {len(NOUNS)} subjects the base has never seen, in {folder / 'photos'}; manifest {manifest}"
    )

    console.print("[bold]2.[/] Training them on two lanes")
    code = subprocess.run([*lorafleet(), "submit", str(manifest), "--yes"], stdout=subprocess.DEVNULL).returncode
    if code:
        return code

    console.print(f"[bold]3.[/] Serving {base} with all six adapters")
    with server(base, port) as client:
        asked = time.monotonic()
        pictures = ask(client, subjects)
        console.print(
            f"   {len(pictures)} pictures, {CONCURRENT} requests at a time, in {time.monotonic() - asked:.1f} s"
        )
        sheet = folder / "contact-sheet.png"
        columns = [
            "a training picture",
            "the base, same prompt",
            *(BACKGROUNDS[background] for background in BACKGROUND_NAMES),
        ]
        contact_sheet(columns, rows(subjects, pictures)).save(sheet)
        console.print(f"[bold]4.[/] Contact sheet: [bold]{sheet}[/]  ({time.monotonic() - started:.0f} s in all)\n")
        console.print(goodbye(base, subjects[0], client.address, stay), highlight=False, markup=False)
        if stay:
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    return 0


def lorafleet() -> list[str]:
    """The words that run lorafleet's command line in another process of this environment."""
    return [sys.executable, "-m", "lorafleet"]


@contextlib.contextmanager
def server(base: str, port: int, patience: float = 180.0) -> Iterator[Client]:
    """Runs `lorafleet serve` as a child while the block runs, which begins once the server is ready."""
    port = port or free_port()
    child = subprocess.Popen(
        [*lorafleet(), "serve", "--base", base, "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    client, deadline = Client(f"http://127.0.0.1:{port}"), time.monotonic() + patience
    try:
        while not client.ready():
            if child.poll() is not None:
                raise LorafleetError(f"the server ended with code {child.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise UnreachableError(f"the server was not ready after {patience:.0f} s; see its messages above")
            time.sleep(0.5)
        yield client
    finally:
        child.terminate()
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(client: Client, subjects: Sequence[Subject]) -> dict[tuple[str, str | None], Image.Image]:
    """Pictures by subject and background: one with the adapter for each background, and the base's under None."""

    def picture_of(wanted: tuple[Subject, str | None]) -> Image.Image:
        subject, background = wanted
        noun = subject.identity.noun
        if background is None:
            return client.generate(f"a photo of a {noun} {BACKGROUNDS[BACKGROUND_NAMES[0]]}", seed=SEED)
        return client.generate(f"a photo of <{subject.name}> {noun} {BACKGROUNDS[background]}", subject.name, seed=SEED)

    wanted = [(subject, background) for background in (None, *BACKGROUND_NAMES) for subject in subjects]
    with ThreadPoolExecutor(CONCURRENT) as pool:
        made = list(pool.map(picture_of, wanted))
    return {(subject.name, background): picture for (subject, background), picture in zip(wanted, made, strict=True)}


def rows(
    subjects: Sequence[Subject], pictures: dict[tuple[str, str | None], Image.Image]
) -> list[tuple[str, list[Image.Image]]]:
    """The contact sheet's rows: a training picture, the base's, and one for each background."""
    return [
        (
            subject.name,
            [subject.pictures()[0], *(pictures[subject.name, background] for background in (None, *BACKGROUND_NAMES))],
        )
        for subject in subjects
    ]


def goodbye(base: str, subject: Subject, address: str, stay: bool) -> str:
    """The text at the end, which says what to do next."""
    prompt = f"a photo of <{subject.name}> {subject.identity.noun} in the snow"
    body = json.dumps({"prompt": prompt, "adapters": [{"name": subject.name}]})
    curl = (
        f"curl -s {address}/v1/images/generations -H 'Content-Type: application/json' -d '{body}' "
        "| python3 -c 'import sys, json, base64; "
        'open("picture.png", "wb").write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))\''
    )
    port = address.rsplit(":", 1)[1]
    serving = "Serving until Ctrl-C. " if stay else f"Serve again:        lorafleet serve --base {base} --port {port}\n"
    return f"Review in MLflow:   lorafleet ui\n{serving}Ask for a picture:\n{curl}"
