"""Nothing that is recorded asks the device for a number, which no CUDA graph could hold."""

import pytest
import torch
from packs_here import prepared, spec_of

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet_jobs.train.batching import StaticBatching
from lorafleet_jobs.train.pack import train_step
from recordable import host_reads

RECIPES = (
    {},
    {"dora": True, "text_encoder_lora": {}},
    {"targets": "all-linear", "min_snr_gamma": 5.0, "noise_offset": 0.1},
    {"gradient_checkpointing": True},
    {"prior": {"mode": "predict"}},
)


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_recorded_training_step_reads_nothing_back(loaded, photos, recipe):
    jobs = [prepared(loaded, spec_of(loaded, photos, 2, batch_size=1, seed=i, **recipe)) for i in range(2)]
    batching = StaticBatching(CapturedCalls(torch.device("cpu")))
    with host_reads() as (found, runs):
        train_step([(job, 1) for job in jobs], batching)
    assert found == []
    assert len(runs) >= 3, "the base's step, and both ways through the text encoders"


def test_the_watch_sees_what_it_should():
    calls, x = CapturedCalls(torch.device("cpu")), torch.arange(4.0)
    with host_reads() as (found, _):
        calls("a", lambda i: (i["x"][i["x"] > 1],), {"x": x})
        calls("b", lambda i: (i["x"] * i["x"].sum().item(),), {"x": x})
    assert [name.partition(".")[0] for name in found] == ["index", "_local_scalar_dense"]
