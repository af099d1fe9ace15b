"""Kinds of job that share a base: none changes what another learns, whoever stands before it and whenever it joins."""

from __future__ import annotations

from itertools import product

import pytest
from packs_here import alone, difference, double, nothing_is_left_on, spec_of, together

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase

EXACT = 1e-9
STEPS = 7
KINDS = {
    "lora": {"pivotal": None},
    "pivotal": {"pivotal": {"tokens": 2, "fraction": 0.5}},
    "textual inversion": {"unet_fraction": 0, "pivotal": {"tokens": 2, "fraction": 1.0}},
    "text encoders": {"pivotal": None, "text_encoder_lora": {"rank": 2}},
    "text encoders and tokens": {
        "pivotal": {"tokens": 2, "fraction": 0.4}, "text_encoder_lora": {"rank": 2, "fraction": 0.6},
    },
    "dora": {"pivotal": None, "dora": True},
    "dropout": {"pivotal": None, "dropout": 0.3},
    "text encoders and dropout": {"pivotal": None, "text_encoder_lora": {"rank": 2}, "dropout": 0.3},
    "prior": {"pivotal": None, "prior": {"mode": "predict"}, "batch_size": 1},
    "prior and text encoders": {
        "pivotal": None, "prior": {"mode": "predict"}, "text_encoder_lora": {"rank": 2}, "batch_size": 1,
    },
    "caption dropout": {"pivotal": None, "caption": {"dropout": 0.5}},
    "checkpointing": {"pivotal": None, "gradient_checkpointing": True, "gradient_accumulation": 2},
    "ema": {"pivotal": {"tokens": 1, "fraction": 0.5}, "ema": 0.9},
}  # fmt: skip
HALVES = [name for i, name in enumerate(KINDS) if i % 2], [name for i, name in enumerate(KINDS) if not i % 2]


@pytest.fixture(scope="module")
def loaded():
    return double(LoadedBase.load(find_base("toy-sdxl")))


@pytest.fixture(scope="module")
def lonely(loaded, photos):
    """Each kind, trained alone."""
    return {kind: alone(loaded, spec(loaded, photos, kind, 2))[0] for kind in KINDS}


def spec(loaded, photos, kind, seed):
    """AdamW at a rate that moves parameters: Prodigy has hardly begun after seven steps."""
    recipe = {"batch_size": 2, "rank": 4, "optimizer": "adamw", "learning_rate": 3e-3, "lr_scheduler": "constant"}
    return spec_of(loaded, photos, STEPS, **recipe | {"seed": seed} | KINDS[kind])


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("backwards", [False, True])
def test_all_kinds_in_one_pack_learn_what_they_learn_alone(loaded, photos, lonely, late, backwards):
    """Over the four cases each kind stands before and behind each other; half of them join two steps late."""
    kinds = [*KINDS][:: -1 if backwards else 1]
    joins = [2 if kind in HALVES[late] else 0 for kind in kinds]
    trainings, _ = together(loaded, [spec(loaded, photos, kind, 2) for kind in kinds], joins)
    differences = {kind: difference(training, lonely[kind]) for kind, training in zip(kinds, trainings, strict=True)}
    assert {kind: off for kind, off in differences.items() if off > EXACT} == {}
    assert nothing_is_left_on(loaded)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_kind_behind_every_other(loaded, photos, lonely):
    """All ordered pairs, the second joining two steps late."""
    wrong = {}
    for first, second in product(KINDS, KINDS):
        _, training = together(loaded, [spec(loaded, photos, first, 1), spec(loaded, photos, second, 2)], [0, 2])[0]
        if (off := difference(training, lonely[second])) > EXACT:
            wrong[first, second] = off
    assert wrong == {}
