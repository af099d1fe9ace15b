"""The memory model and the step times against what a card measured, and against the architecture."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.config import Recipe
from lorafleet_jobs.intake.base_size import measure_base
from lorafleet_jobs.intake.memory_model import LaneMemory, job_memory
from lorafleet_jobs.intake.step_time import step_seconds
from memory_cells import Cell, Step, measured_cells, measured_steps
from sdxl_files import sdxl_folder
from sdxl_size import sdxl_base, sdxl_size

BASE, SIZE = sdxl_base(), sdxl_size()
CELLS, STEPS = measured_cells(), measured_steps()
PLAIN = Recipe(precision="bf16", pivotal=None, optimizer="adamw", rank=16)


def memory(pack: int = 1, checkpointing: bool = False, **keys: Any) -> LaneMemory:
    recipe = PLAIN.with_changes(gradient_checkpointing=checkpointing, **keys)
    return job_memory(recipe, BASE, SIZE).times(pack)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_measured_peak_is_predicted(cell: Cell) -> None:
    assert cell.predicted_mib() == pytest.approx(cell.peak_mib, rel=0.1)
    assert cell.predicted_mib() == pytest.approx(cell.peak_mib, rel=0.01), "the fit is this good; see fit_memory.py"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_measured_step_is_predicted(step: Step) -> None:
    assert step.predicted_seconds() == pytest.approx(step.seconds, rel=0.15)


def test_the_table_has_every_cell_that_was_measured() -> None:
    assert len(CELLS) == 11
    assert len(STEPS) == len({step.name for step in STEPS}) == 10
    assert len({(cell.recipe.model_dump_json(), cell.pack) for cell in CELLS}) == 11


def test_the_written_sizes_are_those_of_the_architecture(tmp_path: Any) -> None:
    measured = measure_base(sdxl_folder(tmp_path))
    assert replace(measured, layers=SIZE.layers) == SIZE
    assert measured.bytes_at("bf16") == 2 * SIZE.parameters + 2 * SIZE.parts["vae"]  # the VAE is fp32 always
    assert measured.bytes_at("fp32") == 4 * SIZE.parameters
    for keys in ({}, {"targets": "attn+ff", "dora": True}, {"text_encoder_lora": True, "rank": 5}):
        recipe = Recipe(**keys)
        assert measured.adapter_parameters(recipe) == SIZE.adapter_parameters(recipe)
    some, every = (job_memory(PLAIN.with_changes(targets=t), BASE, measured) for t in ("attn+ff", "all-linear"))
    assert some.activations < every.activations


COSTS_MORE = [
    ({}, {"rank": 32}),
    ({}, {"optimizer": "prodigy"}),
    ({"optimizer": "adamw8bit"}, {}),
    ({}, {"ema": 0.99}),
    ({}, {"precision": "fp32"}),
    ({}, {"resolution": 1152}),
    ({}, {"batch_size": 2}),
    ({}, {"prior": {"mode": "predict"}}),
    ({}, {"pivotal": {"tokens": 2}}),
    ({}, {"text_encoder_lora": True}),
    ({}, {"dora": True}),
    ({}, {"dropout": 0.1}),
    ({}, {"targets": "attn+ff"}),
    ({"targets": ("to_q", "to_v")}, {"targets": ("to_q", "ff.net.2")}),
]


@pytest.mark.parametrize(("less", "more"), COSTS_MORE, ids=lambda keys: ", ".join(keys) or "plain")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_learns_or_sees_more_takes_more(less: dict[str, Any], more: dict[str, Any], checkpointing: bool) -> None:
    small, large = memory(checkpointing=checkpointing, **less), memory(checkpointing=checkpointing, **more)
    unseen = checkpointing and ("dora" in more or "dropout" in more)  # of one block at a time; only parameters count
    assert large.step > small.step or (unseen and large.step >= small.step)


@given(st.integers(1, 16), st.booleans(), st.sampled_from([512, 768, 1024]))
def test_jobs_add_up_and_share_the_base(pack: int, checkpointing: bool, side: int) -> None:
    one, many = memory(1, checkpointing, resolution=side), memory(pack, checkpointing, resolution=side)
    assert many.base == one.base
    assert many.step - many.base == pytest.approx(pack * (one.step - one.base))
    assert many.peak >= many.step


def test_a_picture_counts_where_it_is_larger_than_the_rows() -> None:
    alone, eight = memory(1, checkpointing=True), memory(8, checkpointing=True)
    assert alone.activations < alone.picture < eight.activations
    assert alone.peak - alone.step == pytest.approx(alone.picture - alone.activations)
    assert eight.peak == eight.step
    assert alone.picture == 3072  # 3 GiB at 1024 px


def seconds(pack: int = 1, checkpointing: bool = False, on_gpu: bool = True, **keys: Any) -> float:
    recipe = PLAIN.with_changes(gradient_checkpointing=checkpointing, **keys)
    return step_seconds(recipe, BASE, on_gpu, pack)


def test_a_step_on_a_gpu_takes_some_time_whatever_its_size_and_more_with_rows() -> None:
    assert 4 * seconds(1) < seconds(8) < 6 * seconds(1)
    assert seconds(4, batch_size=2) == pytest.approx(seconds(8)) == pytest.approx(seconds(32, resolution=512))
    assert 1.2 * seconds(8) < seconds(8, checkpointing=True) < 1.5 * seconds(8)
    assert seconds(on_gpu=False) > 20 * seconds()
