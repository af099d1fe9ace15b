"""Captions beyond one chunk of the text encoders are trained whole, as serving reads prompts."""

from __future__ import annotations

import pytest
import torch
from packs_here import BASES, alone, compare, double, equal, prepared, spec_of, together

from lorafleet.bases import find_base
from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.long_prompts import Weighted, encode_prompt
from lorafleet.numerics.text import split_prompt
from lorafleet_jobs.train.batching import ExactBatching
from lorafleet_jobs.train.pack import train_step_alone

LONG = "a dog, " + ", ".join(f"grass number {i}" for i in range(5)) + ", TOK dog"
LONGEST = "a dog, " + ", ".join(f"grass number {i}" for i in range(11)) + ", TOK dog"
RECIPE = {"rank": 2, "batch_size": 2, "pivotal": {"tokens": 2, "fraction": 0.5}, "optimizer": "adamw"}


@pytest.fixture(scope="module", params=BASES)
def loaded(request):
    return double(LoadedBase.load(find_base(request.param)))


def test_a_caption_is_encoded_as_serving_encodes_the_prompt(loaded, photos):
    training = prepared(loaded, spec_of(loaded, photos, **RECIPE))
    prompts = training.prompts
    vectors = tuple(vector.detach().double() for vector in training.trainable.vectors)
    assert [prompts.chunks([caption]) for caption in ("a TOK dog", LONG, LONGEST)] == [1, 2, 4]
    for caption in ("a TOK dog", LONG, LONGEST):
        served = encode_prompt(loaded.prompts, [Weighted(p) for p in split_prompt(caption, prompts.triggers)], vectors)
        ours = prompts.encode([caption])
        torch.testing.assert_close(ours.context, served.context, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.pooled, served.pooled, rtol=1e-9, atol=1e-9)


def test_shorter_captions_beside_a_long_one_are_filled_up_as_serving_does(loaded, photos):
    prompts = prepared(loaded, spec_of(loaded, photos, **RECIPE)).prompts
    both, short, none = prompts.encode(["TOK dog", LONG, ""]), prompts.encode(["TOK dog"]), loaded.unconditional(1)
    empty = encode_prompt(loaded.prompts, [])
    length = short.context.shape[1]
    torch.testing.assert_close(both.context[:1, :length], short.context)
    torch.testing.assert_close(both.context[:1, length:], empty.context)
    torch.testing.assert_close(both.context[2:], none.context.repeat(1, 2, 1))
    cached = prompts.cached(["TOK dog", LONG, ""])
    torch.testing.assert_close(cached.context, both.context.detach())
    torch.testing.assert_close(cached.pooled, both.pooled.detach())


def test_tokens_at_the_end_of_a_long_caption_learn(loaded, photos):
    training = prepared(loaded, spec_of(loaded, photos, captions=(LONG, LONG, LONG), **RECIPE))
    before = [vectors.detach().clone() for vectors in training.trainable.vectors]
    train_step_alone(training, 1)
    for vectors, was in zip(training.trainable.vectors, before, strict=True):
        assert ((vectors - was).abs() > 1e-6).all()


def test_a_pack_of_long_and_short_captions_changes_nothing(loaded, photos):
    captions = [(LONG, "a TOK dog", None), (None, None, None), (LONGEST, LONG, "TOK"), (LONG, LONG, LONG)]
    specs = [
        spec_of(
            loaded, photos, 4, own, **RECIPE | {"seed": seed, "text_encoder_lora": {"rank": 2} if seed == 2 else None}
        )
        for seed, own in enumerate(captions)
    ]
    trainings, losses = together(loaded, specs, [0, 1, 0, 2])
    for spec, training, trace in zip(specs, trainings, losses, strict=True):
        lonely, expected = alone(loaded, spec)
        assert trace == pytest.approx(expected, rel=1e-9)
        compare(training, lonely, 1e-9)
    own, _ = together(loaded, specs[:1], [0], ExactBatching())
    assert equal(own[0], alone(loaded, specs[0])[0])


def test_a_caption_beyond_what_serving_reads_is_refused_by_name(loaded, photos):
    training = prepared(loaded, spec_of(loaded, photos, captions=("so " * 900 + "TOK",) * 3, **RECIPE))
    with pytest.raises(DataError, match=r"rex: caption 'so so so .*at most 240 are allowed; shorten it"):
        train_step_alone(training, 1)
