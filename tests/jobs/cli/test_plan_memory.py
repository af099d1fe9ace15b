"""`plan` and `submit` of a real base for a GPU: what is chosen and shown, and what is refused at once."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorafleet.cli import new_app, run
from lorafleet_jobs.cli.commands import register
from sdxl_files import sdxl_folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two subjects and SDXL's sizes without its weights."""
    folder = tmp_path_factory.mktemp("here")
    sdxl_folder(folder / "sdxl")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 64, 64, 3), dtype=np.uint8)
    for name, pictures in zip(("rex", "mimi"), pixels, strict=True):
        (folder / name).mkdir()
        for n, picture in enumerate(pictures):
            Image.fromarray(picture).resize((1024, 1024), 0).save(folder / name / f"{n}.png")
    return folder


def call(here: Path, command: str, more: str, *options: str) -> int:
    subjects = "subjects: [{images: rex, class: dog}, {images: mimi, class: cat}]\n"
    (here / "m.yaml").write_text(f"name: pets\nbase: ./sdxl\n{subjects}{more}")
    app = new_app()
    register(app)
    return run(app, [command, str(here / "m.yaml"), *options])


def planned(here: Path, capsys: pytest.CaptureFixture[str], more: str) -> dict[str, Any]:
    assert call(here, "plan", more, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


def test_plan_shows_what_is_chosen_for_the_card(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(here, "plan", "resources: {gpu_memory_gib: 12}\n") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "gradient_checkpointing: auto" in out
    *block, time = out.split("each lane (estimated)\n")[1].split("\n\n")[0].splitlines()
    assert block == [
        "  device         GPU of 12.0 GiB (resources.gpu_memory_gib)",
        "  precision      bf16",
        "  checkpointing  on (auto)",
        "  pack           2 jobs at once (auto)",
        "  peak memory    10.8 GiB",
    ]
    assert re.fullmatch(r"  time           about \d+ min \d+ s, until the last lane has ended", time)


def test_the_card_changes_how_a_job_is_trained_and_not_which_job_it_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = (planned(here, capsys, f"resources: {{gpu_memory_gib: {gib}}}\n") for gib in (12, 80))
    assert small["submission"] == large["submission"]
    assert [job["id"] for job in small["jobs"]] == [job["id"] for job in large["jobs"]]
    assert (small["choice"]["gradient_checkpointing"], large["choice"]["gradient_checkpointing"]) == (True, False)
    assert small["estimate"]["seconds"] > large["estimate"]["seconds"]
    for found in (small, large):
        assert [len(recipe["jobs"]) for recipe in found["recipes"]] == [2]


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_what_cannot_fit_is_exit_2_and_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path))
    assert call(here, command, "resources: {gpu_memory_gib: 8}\n") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {here}/m.yaml: one job needs 11.2 GiB of a GPU's memory (base 6.7, ")
    assert err.endswith("offloading to the host are not implemented; use a GPU of 12 GB or more\n")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was started"
    batch = "recipe: {batch_size: 4, gradient_checkpointing: false}\nresources: {gpu_memory_gib: 24}\n"
    assert call(here, command, batch) == 2
    assert "gradient_checkpointing: auto would fit" in capsys.readouterr().err


def test_a_card_that_nobody_knows_is_assumed_and_doubted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = "recipe: {batch_size: 4, gradient_checkpointing: false}\n"
    assert call(here, "plan", f"{greedy}resources: {{gpus_per_lane: 1}}\n") == 0
    out, err = capsys.readouterr()
    assert "  device         GPU of 21.5 GiB (assumed)\n" in out
    assert "  checkpointing  off\n" in out
    assert err.startswith("warning: one job needs ")
    assert "21.5 are assumed; resources.gpu_memory_gib says what there is" in err
