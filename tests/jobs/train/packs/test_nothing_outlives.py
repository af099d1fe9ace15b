"""What a job puts on the shared base is gone with the call it was put there for, also when the call raises."""

from __future__ import annotations

import pytest
import torch
from packs_here import double, nothing_is_left_on, prepared, spec_of

from lorafleet.bases import find_base
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.targets import PARTS, TEXT_PARTS, UNET
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.previews.pictures_together import PictureMaker
from lorafleet_jobs.train.previews.validate import Validator

EVERYTHING = {
    "rank": 2, "batch_size": 2, "dropout": 0.2, "text_encoder_lora": {"rank": 2},
    "pivotal": {"tokens": 2, "fraction": 1.0}, "gradient_checkpointing": True, "prior": {"mode": "predict"},
}  # fmt: skip


class BrokenError(RuntimeError):
    """Raised in the middle of a call."""


@pytest.fixture(scope="module")
def loaded():
    return double(LoadedBase.load(find_base("toy-sdxl")))


@pytest.fixture(scope="module")
def training(loaded, photos):
    return prepared(loaded, spec_of(loaded, photos, **EVERYTHING))


@pytest.fixture
def breaking():
    """breaking(module) makes a module's next forward raise, until the test ends."""
    handles = []

    def fail(module, args, kwargs=None):
        raise BrokenError

    yield lambda module: handles.append(module.register_forward_pre_hook(fail))
    for handle in handles:
        handle.remove()


def parts_of(loaded):
    """A layer of each model: at the end of the UNet, and inside each text encoder."""
    return {
        "unet": loaded.unet.conv_out,
        "first encoder": loaded.lora[TEXT_PARTS[0]].layers["encoder.layers.1.self_attn.q_proj"],
        "second encoder": loaded.lora[TEXT_PARTS[1]].layers["encoder.layers.1.self_attn.q_proj"],
    }


def test_a_step_leaves_nothing(loaded, training):
    assert isinstance(train_step([(training, 1)])[0], float)
    assert nothing_is_left_on(loaded)


@pytest.mark.parametrize("part", ["unet", "first encoder", "second encoder"])
def test_a_step_that_breaks_leaves_nothing(loaded, training, breaking, part):
    breaking(parts_of(loaded)[part])
    with pytest.raises(BrokenError):
        train_step([(training, 1)])
    assert nothing_is_left_on(loaded)


def test_a_backward_pass_that_breaks_leaves_nothing(loaded, training):
    """Checkpointing calls the layers again in it, with the adapters that the forward pass had."""
    calls = []

    def fail_in_the_backward_pass(module, args):
        calls.append(len(args[0]))
        if len(calls) > 2:  # the base's own prediction, the forward pass, then the backward pass
            raise BrokenError

    handle = (
        loaded.unet.down_blocks[1]
        .attentions[0]
        .transformer_blocks[0]
        .attn1.to_q.register_forward_pre_hook(fail_in_the_backward_pass)
    )
    try:
        with pytest.raises(BrokenError):
            train_step([(training, 1)])
    finally:
        handle.remove()
    assert nothing_is_left_on(loaded)


@pytest.mark.parametrize("part", [None, "unet", "first encoder"])
def test_a_validation_picture_leaves_nothing(loaded, photos, breaking, part):
    spec = spec_of(loaded, photos, **EVERYTHING | {"seed": 1})
    training = prepared(loaded, spec.with_changes(validation=spec.validation.with_changes(steps=1)))
    wanted, maker = Validator(training.spec, training.prompts).adapted(), PictureMaker(loaded)
    if part is None:
        maker.make(wanted)
    else:
        breaking(parts_of(loaded)[part])
        with pytest.raises(BrokenError):
            maker.make(wanted)
    assert nothing_is_left_on(loaded)


def test_a_job_that_is_not_finite_leaves_nothing(loaded, photos):
    bad = prepared(loaded, spec_of(loaded, photos, **EVERYTHING | {"seed": 2}))
    with torch.no_grad():
        bad.trainable.low_rank[UNET].flat.fill_(1e200)
    assert isinstance(train_step([(bad, 1)])[0], NonFiniteError)
    assert nothing_is_left_on(loaded)


def test_the_check_can_fail(loaded, training):
    """Each kind of rest is seen."""
    for part in PARTS:
        with loaded.carrying((part,), training.trainable.adapters(loaded, (part,))):
            assert not nothing_is_left_on(loaded)
        with loaded.carrying((part,), {}, RowDropout([0.5], [1])):
            assert not nothing_is_left_on(loaded)
    with loaded.checkpointing(True):
        assert not nothing_is_left_on(loaded)
    loaded.prompts.embeddings[0].held = (torch.zeros(1, 1),)
    assert not nothing_is_left_on(loaded)
    loaded.prompts.embeddings[0].held = ()
    assert nothing_is_left_on(loaded)
