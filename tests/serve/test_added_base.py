"""A base that was added is served by its name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "platform"))
from base_files import add_toy, with_variants

from lorafleet.home import Home
from lorafleet_serve.engine.requests import GenerateRequest
from lorafleet_serve.local import generate_image

ASKED = GenerateRequest(prompt="a photo of a red dog on the beach", steps=6, guidance_scale=4.0, seed=3)


@pytest.mark.parametrize("toy", ["toy-sdxl", "toy-playground"])
def test_its_pictures_are_those_of_the_folder(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    add_toy("mine", Home.from_environment(), toy=toy)
    one, two = (np.asarray(generate_image(ASKED, base).image) for base in ("mine", toy))
    assert np.array_equal(one, two)


def test_one_of_v_and_zero_terminal_snr_makes_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    add_toy("mine", Home.from_environment(), "v-zero-snr")
    for scheduler in (None, "ddim", "dpmpp-2m"):
        image = generate_image(ASKED.with_changes(scheduler=scheduler), "mine").image
        assert np.asarray(image).std() > 1


def test_of_several_variants_the_plain_files_are_served(tmp_path):
    both, only = with_variants(tmp_path / "both", True, True), with_variants(tmp_path / "only", False, True)
    made = [np.asarray(generate_image(ASKED, base).image) for base in ("toy-sdxl", both.name, only.name)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
