"""The toy world says what it shows, and ships ordinary pipelines."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import SHIPPED, find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.toy.judges import WEIGHTS as JUDGE
from lorafleet.toy.render import render
from lorafleet.toy.tokenizer import build_tokenizer
from lorafleet.toy.world import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    WORDS,
    caption,
    held_out_prompts,
    named_colour,
    random_identity,
    random_scene,
    unseen_identity,
)
from toy.data import labels_of, pictures

TOKENIZER = build_tokenizer(WORDS)


def scene(seed):
    rng = random.Random(seed)
    return random_scene(random_identity(rng), rng)


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_every_caption_is_words_of_the_grammar_and_fits(seed):
    text = caption(scene(seed), random.Random(seed), drop=0.0)
    ids = TOKENIZER(text).input_ids
    assert len(ids) == len(text.replace("-", " - ").split()) + 2 <= TOKENIZER.model_max_length


@given(st.sampled_from(COLOURS), st.integers())
def test_a_named_colour_has_its_name(word, seed):
    assert named_colour(word, random.Random(seed)).word == word


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_scene_has_one_picture(seed):
    one, two = render(scene(seed)), render(scene(seed))
    assert one.size == (32, 32)
    assert np.array_equal(np.asarray(one), np.asarray(two))


def test_captions_tell_the_truth():
    for seed in range(200):
        view = scene(seed)
        text = caption(view, random.Random(seed), drop=0.0)
        assert view.identity.noun in text
        assert BACKGROUNDS[view.background] in text
        if view.identity.body.word:
            assert view.identity.body.word in text
            assert COLOURS[labels_of(view)["colour"]] == view.identity.body.word


def test_pictures_of_a_stream_are_the_same_each_time():
    one, two = pictures("test", 30, workers=1), pictures("test", 30, workers=2)
    assert one.captions == two.captions
    assert one.pixels.equal(two.pixels)
    assert not one.pixels.equal(pictures("other", 30, workers=1).pixels)


def test_unseen_identities_differ_from_each_other():
    assert len({unseen_identity(i) for i in range(100)}) == 100


def test_held_out_combinations_cover_every_word():
    for name, words in (("class", CLASSES), ("colour", COLOURS), ("background", tuple(BACKGROUNDS))):
        assert {truth[name] for _, truth in held_out_prompts()} == set(words)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bases_are_ordinary_pipelines(name):
    base = find_base(name)
    pipe = StableDiffusionXLPipeline.from_pretrained(base.path)
    assert pipe.unet.config.addition_embed_type == "text_time"
    assert (base.resolution, base.vae_factor) == (32, 4)
    assert base.prediction == ("edm" if name == "toy-playground" else "epsilon")
    assert (pipe.vae.config.latents_mean is not None) == (name == "toy-playground")
    if name == "toy-playground":
        assert (base.scheduler["_class_name"], base.scheduler["sigma_data"]) == ("EDMDPMSolverMultistepScheduler", 0.5)


def test_shipped_weights_stay_small():
    files = [path for folder in (*SHIPPED.values(), JUDGE.parent) for path in folder.rglob("*.safetensors")]
    assert sum(path.stat().st_size for path in set(files)) < 40 * 10**6


def test_shipped_weights_are_those_that_were_measured():
    page = (Path(__file__).parents[3] / "docs" / "toy.md").read_text()
    measured = dict(reversed(line.split()) for line in page.splitlines() if line.endswith(".safetensors"))
    shipped = {str(path.relative_to(JUDGE.parent)): sha256_of(path) for path in JUDGE.parent.rglob("*.safetensors")}
    assert shipped == measured
