"""Jobs on bases that were added: what whoever added a base chose shapes the result, and so is in the job's id."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "platform"))
from base_files import add_toy, other_vae

from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.basefiles.from_folder import add_folder
from lorafleet.bases import find_base
from lorafleet.errors import ManifestError
from lorafleet.home import Home
from lorafleet_jobs.intake.prepare import prepare


@pytest.fixture
def job_on(tmp_path, monkeypatch):
    """The id of a job, by the base that its manifest names."""
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    random = np.random.default_rng(0)
    (tmp_path / "rex").mkdir()
    for n in range(4):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "rex" / f"{n}.png")

    def job(base: str) -> str:
        manifest = tmp_path / "m.yaml"
        manifest.write_text(f"name: pets\nbase: {base}\nsubjects: [{{name: rex, images: rex, class: dog}}]\n")
        plan = prepare(manifest).plan
        assert plan.jobs[0].base == base
        return f"{plan.submission}/{plan.jobs[0].id}"

    return job


def test_an_added_base_is_named_in_a_manifest_and_its_choices_count(job_on, tmp_path):
    home = Home(tmp_path / "home")
    one, v = add_toy("one", home), add_toy("v", home, "v-zero-snr")
    add_checkpoint(tmp_path / "one.safetensors", "again", home, licence="mit")
    sharp = add_folder(one, "sharp", home, str(other_vae(tmp_path))).base
    assert one.fingerprint == v.fingerprint == sharp.fingerprint
    assert len({job_on(name) for name in ("one", "v", "sharp")}) == 3
    assert job_on("one") == job_on("again")


def test_a_manifest_that_names_a_file_is_told_the_command(job_on, tmp_path):
    add_toy("mine", Home(tmp_path / "home"))
    with pytest.raises(ManifestError, match=r"m\.yaml:2:7") as refused:
        job_on("./mine.safetensors")
    assert f"lorafleet bases add {tmp_path / 'mine.safetensors'} --name NAME" in str(refused.value)
    assert find_base("mine").record is not None
