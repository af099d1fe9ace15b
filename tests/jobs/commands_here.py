"""What tests of `check` and `plan` share: two subjects and an empty folder, and how a command is called on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorafleet.cli import new_app, run
from lorafleet_jobs.cli.commands import register

REX = "{name: rex, images: rex, class: dog}"


def write_subjects(folder: Path) -> Path:
    """Two subjects of four pictures each, and an empty one."""
    random = np.random.default_rng(0)
    for name in ("rex", "mimi"):
        (folder / name).mkdir()
        for n in range(4):
            Image.fromarray(random.integers(0, 64 * (n + 1), (40, 40, 3), dtype=np.uint8)).save(
                folder / name / f"{n}.png"
            )
    (folder / "empty").mkdir()
    return folder


def call(here: Path, command: str, manifest: str, *options: str) -> int:
    (here / "m.yaml").write_text(manifest)
    app = new_app()
    register(app)
    return run(app, [command, str(here / "m.yaml"), *options])


def manifest(*subjects: str, more: str = "") -> str:
    return "name: pets\nsubjects:\n" + "".join(f"  - {subject}\n" for subject in subjects) + more


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, err = capsys.readouterr()
    assert err == ""
    return dict(json.loads(out))
