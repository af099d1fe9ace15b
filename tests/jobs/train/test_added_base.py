"""A base that was passed on as one file trains and makes pictures like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from packs_here import alone, double, spec_of

sys.path.append(str(Path(__file__).parents[2] / "platform"))
from base_files import add_toy

from lorafleet.bases import find_base
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase

RECIPE = {"rank": 4, "pivotal": {"tokens": 1, "fraction": 0.5}, "optimizer": "adamw", "learning_rate": 1e-3}


@pytest.mark.parametrize("toy", ["toy-sdxl", "toy-playground"])
def test_it_trains_to_the_same_losses(toy, photos, tmp_path):
    added = add_toy("mine", Home(tmp_path / "home"), toy=toy)
    losses = [alone(loaded, spec_of(loaded, photos, **RECIPE))[1]
              for loaded in map(LoadedBase.load, (added, find_base(toy)))]  # fmt: skip
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_one_of_v_and_zero_terminal_snr_trains(photos, tmp_path):
    loaded = double(LoadedBase.load(add_toy("mine", Home(tmp_path / "home"), "v-zero-snr")))
    training, losses = alone(loaded, spec_of(loaded, photos, steps=6, **RECIPE))
    assert torch.tensor(losses).isfinite().all()
    assert all(p.isfinite().all() for p in training.trainable.parameters())
    assert losses != alone(loaded, spec_of(loaded, photos, steps=6, **RECIPE | {"seed": 1}))[1]
