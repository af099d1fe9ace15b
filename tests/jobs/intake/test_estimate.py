"""Sizes read from headers against what the trainer really holds, and what makes a job longer."""

from typing import Any

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.config import Recipe, Resources, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.targets import TEXT, TEXT_ENCODER, TEXT_ENCODER_2, UNET, select
from lorafleet_jobs.intake.base_size import measure_base
from lorafleet_jobs.intake.choose import LARGEST_PACK
from lorafleet_jobs.intake.estimate import choice_for, estimate, job_seconds
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.memory_model import job_memory, rows_at_once
from lorafleet_jobs.intake.recipes import resolve_recipe
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.trainable_state import TrainableState

BASE = find_base("toy-sdxl")
SIZE = measure_base(BASE)
CPU = Machine(cpus=2, gpus=0)


@pytest.fixture(scope="module")
def loaded() -> LoadedBase:
    return LoadedBase.load(BASE)


def test_layers_are_those_that_carry_adapters(loaded: LoadedBase) -> None:
    assert dict(SIZE.layers[UNET]) == loaded.lora[UNET].linear
    for part in (TEXT_ENCODER, TEXT_ENCODER_2):
        linear = loaded.lora[part].linear
        assert sorted(SIZE.layers[part].values()) == sorted(linear[name] for name in select(linear, TEXT))
    assert len(select(SIZE.layers[UNET], "attn")) < len(select(SIZE.layers[UNET], "attn+ff")) < len(SIZE.layers[UNET])


@pytest.mark.parametrize(
    "keys",
    [
        {"rank": 3},
        {"targets": "attn+ff", "pivotal": None},
        {"targets": "all-linear", "dora": True},
        {"targets": ["attn1.to_q", "ff.net.2"], "text_encoder_lora": {"rank": 2}},
        {"text_encoder_lora": True, "dora": True, "rank": 5},
        {"unet_fraction": 0.0, "pivotal": {"tokens": 3, "fraction": 1.0, "abstractions": ["TOK", "TOK2"]}},
    ],
)
def test_parameters_are_counted_exactly(loaded: LoadedBase, keys: dict[str, Any]) -> None:
    recipe = Recipe(**keys)
    learned = TrainableState.new(recipe, loaded, torch.Generator().manual_seed(0))
    assert SIZE.adapter_parameters(recipe) == sum(parameter.numel() for parameter in learned.parameters())


def peak(recipe: Recipe) -> float:
    return job_memory(recipe, BASE, SIZE).peak


def seconds(recipe: Recipe, steps: int = 100) -> float:
    return job_seconds(recipe, steps, BASE, on_gpu=False)


def test_micro_batches_and_class_rows_cost_time_and_memory() -> None:
    plain = resolve_recipe({"batch_size": 2, "steps": 100}, toy=True)
    step = seconds(plain, 200) - seconds(plain, 100)
    four = plain.with_changes(gradient_accumulation=4)
    assert seconds(four, 200) - seconds(four, 100) == pytest.approx(4 * step)

    images = plain.with_changes(prior={"mode": "images", "images": "x", "batch_size": 3})
    predict = plain.with_changes(prior={"mode": "predict", "batch_size": 3})
    assert [rows_at_once(recipe) for recipe in (plain, images, predict)] == [2, 5, 5]
    assert rows_at_once(plain.with_changes(prior={"mode": "predict"})) == 4
    assert seconds(images) == pytest.approx(seconds(plain.with_changes(batch_size=5)))
    assert seconds(predict) > seconds(images)
    assert peak(images) == peak(plain.with_changes(batch_size=5))


def test_what_an_optimizer_keeps_is_counted() -> None:
    mib = [peak(Recipe(optimizer=name, rank=64)) for name in ("prodigy", "adamw", "lion", "adamw8bit", "adafactor")]
    assert mib == sorted(mib, reverse=True)
    assert len(set(mib)) == 5
    assert peak(Recipe(ema=0.9, rank=64)) > mib[0]


def jobs_of(count: int, **recipe: Any) -> list[JobSpec]:
    one = JobSpec(
        id="0" * 16, submission="", subject="rex", adapter="rex", base=BASE.name, folder="/photos", images=(),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(**recipe), steps=200,
        validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip
    return [one] * count


def pack_size(jobs: list[JobSpec], machine: Machine, **resources: Any) -> int:
    return choice_for(jobs, BASE, SIZE, machine, Resources(**resources)).pack


def test_a_pack_is_what_was_asked_for_or_what_memory_has_room_for() -> None:
    jobs, roomy = jobs_of(20, batch_size=8), Machine(cpus=2, gpus=0, memory_mib=8192)
    assert pack_size(jobs, roomy, pack=5) == 5
    assert pack_size(jobs, roomy, pack=5, lanes=10) == 2  # every lane finds work
    assert pack_size(jobs, roomy) == LARGEST_PACK
    assert 1 < pack_size(jobs, Machine(cpus=2, gpus=0, memory_mib=1300)) < LARGEST_PACK
    assert pack_size(jobs, Machine(cpus=2, gpus=0, memory_mib=100)) == 1
    assert pack_size(jobs_of(4, workers=2, gradient_accumulation=2), roomy, pack=4) == 1


def test_a_pack_needs_more_memory_and_less_time() -> None:
    jobs = jobs_of(8)
    choices = [choice_for(jobs, BASE, SIZE, CPU, Resources(pack=n)) for n in (1, 8)]
    one, eight = (estimate(jobs, BASE, SIZE, CPU, Resources(), choice) for choice in choices)
    assert eight.peak_memory_mib > one.peak_memory_mib
    assert eight.seconds < one.seconds
