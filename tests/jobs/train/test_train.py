"""The trainer on a toy base: exact, isolated, resumable by nobody's leftovers, and readable by stock diffusers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from null_tracker import NullTracker
from packs_here import train_job
from PIL import Image
from safetensors.torch import load_file

from frozen import weights_hash
from lorafleet.bases import find_base
from lorafleet.bundle.adapter import load_adapter
from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS, read_bundle, sha256_of
from lorafleet.config import PivotalSpec, Recipe, Validation
from lorafleet.errors import DataError, NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.samplers import sampler_names, scheduler_for
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Cancelled
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

BASES = ("toy-playground", "toy-sdxl")


@pytest.fixture(scope="module", params=BASES)
def loaded(request):
    return LoadedBase.load(find_base(request.param))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = random.Random(3)
    for i in range(3):
        render(random_scene(unseen_identity(0, "dog"), rng), 48).save(folder / f"{i}.png")
    return folder


def job(loaded, photos, name="rex", steps=4, prompts=("a photo of TOK dog at night",), **recipe):
    return JobSpec(
        id=name.ljust(16, "0"), submission="test", subject=name, adapter=name, base=loaded.base.name,
        folder=str(photos),
        images=tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(3)),
        class_noun="dog", instance_prompt="a photo of TOK dog",
        recipe=Recipe(**{"rank": 4, "batch_size": 2} | recipe), steps=steps,
        validation=Validation(prompts=prompts, steps=3), dataset_fingerprint="",
    )  # fmt: skip


def trained(spec, loaded, out):
    losses = []
    bundle = train_job(spec, loaded, out, NullTracker(), lambda step, loss: losses.append(loss))
    return bundle, losses


def test_the_same_job_twice_is_the_same_to_the_bit_whatever_ran_between(loaded, photos, tmp_path):
    """B after A on a warm base equals B on a fresh one, and the base's weights are untouched."""
    before = weights_hash(loaded)
    spec = job(loaded, photos)
    first, losses = trained(spec, loaded, tmp_path / "first")
    trained(job(loaded, photos, "other", rank=2, seed=9, batch_size=1), loaded, tmp_path / "other")
    second, losses_again = trained(spec, loaded, tmp_path / "second")
    fresh, losses_fresh = trained(spec, LoadedBase.load(loaded.base), tmp_path / "fresh")
    assert losses == losses_again == losses_fresh
    for other in (second, fresh):
        for one, two in ((first.weights(), other.weights()), (first.embeddings(), other.embeddings())):
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
    assert weights_hash(loaded) == before


def test_every_parameter_moves_and_the_tokens_stop_at_the_pivot(loaded, photos):
    spec = job(loaded, photos, steps=4, pivotal=PivotalSpec(tokens=2, fraction=0.5), optimizer="adamw")
    work = Training.prepare(spec, loaded)
    assert work.ends["tokens"] == 2
    start = [p.detach().clone() for p in work.trainable.parameters()]
    seen = []
    for step in (1, 2, 3, 4):
        train_step_alone(work, step)
        seen.append([p.detach().clone() for p in work.trainable.parameters()])
    assert all(not torch.equal(a, b) for a, b in zip(start, seen[1], strict=True))
    for one, two in zip(seen[1][1:], seen[3][1:], strict=True):  # the tokens, before and after the pivot's two steps
        assert torch.equal(one, two)
    assert not torch.equal(seen[1][0], seen[3][0])  # the factors go on


TECHNIQUES = {
    "lora": {"pivotal": None},
    "pivotal": {},
    "two abstractions": {"pivotal": PivotalSpec(tokens=1, abstractions=("TOK", "TOK2"))},
    "textual inversion": {"unet_fraction": 0, "pivotal": PivotalSpec(fraction=1)},
    "dora": {"dora": True, "rank": 2},
    "text encoders": {"pivotal": None, "text_encoder_lora": {"rank": 3}},
    "text encoders alone": {"pivotal": None, "text_encoder_lora": True, "unet_fraction": 0},
    "everything": {"dora": True, "text_encoder_lora": True, "targets": "all-linear", "alpha": 6.0, "rslora": True},
}


def stock_picture(bundle, base, prompt):
    """The bundle as the model card says to use it in diffusers."""
    pipe = StableDiffusionXLPipeline.from_pretrained(base.path, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler_for(sampler_names(base)[0], base.scheduler)
    if (bundle.path / WEIGHTS).exists():
        pipe.load_lora_weights(str(bundle.path), weight_name=WEIGHTS)
    for trigger in reversed(bundle.card.triggers):  # TOK2 before TOK
        prompt = prompt.replace(trigger.abstraction, "".join(f"<s{row}>" for row in trigger.tokens) or trigger.text)
    if (bundle.path / EMBEDDINGS).exists():
        vectors = load_file(bundle.path / EMBEDDINGS)
        names = [f"<s{row}>" for row in range(len(vectors["clip_l"]))]
        pipe.load_textual_inversion(vectors["clip_l"], names, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(
            vectors["clip_g"], names, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
        )
    return pipe(
        prompt, num_inference_steps=3, guidance_scale=base.default_guidance, generator=torch.Generator().manual_seed(0)
    ).images[0]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_stock_diffusers_makes_the_same_picture_from_the_bundle(loaded, photos, tmp_path, technique):
    prompt = "a photo of TOK dog at night" + (" in the style of TOK2" if technique == "two abstractions" else "")
    recipe = {"optimizer": "adamw", "learning_rate": 0.02, **TECHNIQUES[technique]}
    bundle, _ = trained(job(loaded, photos, steps=4, prompts=(prompt,), **recipe), loaded, tmp_path / "bundle")
    ours = np.asarray(Image.open(bundle.path / "preview.png"))[:, -128:][::4, ::4].astype(int)
    theirs = np.asarray(stock_picture(bundle, loaded.base, prompt)).astype(int)
    base_alone = np.asarray(Image.open(bundle.path / "preview.png"))[:, :128][::4, ::4].astype(int)
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - base_alone).max() > 2  # the adapter does something
    adapter = load_adapter(bundle, loaded)
    assert bool(adapter.layers("unet")) == ("unet_fraction" not in TECHNIQUES[technique])
    assert adapter.touches_text == ("text_encoder_lora" in TECHNIQUES[technique])


def test_bundle_is_verified_on_read(loaded, photos, tmp_path):
    bundle, _ = trained(job(loaded, photos, steps=1), loaded, tmp_path / "bundle")
    card = read_bundle(bundle.path, loaded.base).card
    assert (card.name, card.steps, card.rank, card.triggers[0].trigger) == ("rex", 1, 4, "<rex>")
    assert set(card.sha256) == {WEIGHTS, EMBEDDINGS, "preview.png", "README.md"}


def test_a_non_finite_loss_stops_the_job_and_leaves_no_bundle(loaded, photos, tmp_path):
    spec = job(loaded, photos, steps=50, optimizer="adamw", learning_rate=10.0, max_grad_norm=None)
    poisoned = LoadedBase.load(loaded.base)
    with torch.no_grad():
        next(iter(poisoned.unet.parameters())).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="lower learning_rate"):
        train_job(spec, poisoned, tmp_path / "bundle", NullTracker(), lambda step, loss: None)
    assert list(tmp_path.iterdir()) == []


def test_cancelling_leaves_the_base_clean_and_no_bundle(loaded, photos, tmp_path):
    def stop(step, loss):
        raise Cancelled

    with pytest.raises(Cancelled):
        train_job(job(loaded, photos), loaded, tmp_path / "bundle", NullTracker(), stop)
    assert all(layer.carried is None for layer in loaded.lora["unet"].layers.values())
    assert not (tmp_path / "bundle").exists()


def test_an_image_that_changed_since_the_plan_is_refused(loaded, photos, tmp_path):
    spec = job(loaded, photos)
    for i in range(3):
        Image.new("RGB", (48, 48), "red").save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="submit the manifest again"):
        train_job(
            spec.with_changes(folder=str(tmp_path)), loaded, tmp_path / "out", NullTracker(), lambda step, loss: None
        )
