"""Packs in this process: three small pictures, jobs over them, and what they come to together and alone."""

from __future__ import annotations

import random

import torch

from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Pack, TrainJob
from lorafleet_jobs.train.batching import DynamicBatching
from lorafleet_jobs.train.pack import train_step, train_step_alone
from lorafleet_jobs.train.training import Training

BASES = ("toy-sdxl", "toy-playground")


def write_photos(folder):
    """Three pictures of one dog, of three shapes."""
    rng = random.Random(3)
    for i, size in enumerate(((48, 48), (64, 40), (40, 56))):
        render(random_scene(unseen_identity(0, "dog"), rng), 64).resize(size).save(folder / f"{i}.png")
    return folder


def double(loaded):
    """Makes a base compute in float64."""
    for model in (loaded.unet, *loaded.prompts.encoders):
        model.double()
    return loaded


def spec_of(loaded, photos, steps=4, captions=(None, None, None), **recipe):
    images = tuple(
        ImageSpec(file=f"{i}.png", caption=caption, sha256=sha256_of(photos / f"{i}.png"))
        for i, caption in enumerate(captions)
    )
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base=loaded.base.name, folder=str(photos),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(**recipe), steps=steps,
        validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip


def prepared(loaded, spec):
    """A training whose parameters have the base's own precision."""
    training = Training.prepare(spec, loaded)
    for parameter in training.trainable.parameters():
        parameter.data = parameter.data.to(loaded.unet.dtype)
    return training


def alone(loaded, spec):
    training = prepared(loaded, spec)
    return training, [train_step_alone(training, step) for step in range(1, spec.steps + 1)]


def together(loaded, specs, joins, batching=None):
    """Each job from its own tick on until its steps are done; a tick is one step of the pack."""
    trainings = [prepared(loaded, spec) for spec in specs]
    losses, batching = [[] for _ in specs], batching or DynamicBatching()
    for tick in range(max(join + spec.steps for join, spec in zip(joins, specs, strict=True))):
        here = [i for i, join in enumerate(joins) if join <= tick < join + specs[i].steps]
        outcomes = train_step([(trainings[i], tick - joins[i] + 1) for i in here], batching)
        for i, loss in zip(here, outcomes, strict=True):
            losses[i].append(loss)
    return trainings, losses


def train_job(spec, loaded, out, tracker, on_step, cache=None):
    """Trains one job in a pack of its own and returns its bundle; raises what ended it."""
    pack = Pack(loaded, cache)
    pack.join(TrainJob(spec, out, tracker, on_step))
    while True:
        for _, end in pack.step():
            if isinstance(end, Exception):
                raise end
            return end


def difference(one, other):
    """The largest relative difference of what two trainings have learned, in L2."""
    pairs = zip(one.trainable.parameters(), other.trainable.parameters(), strict=True)
    return max(float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-12)) for a, b in pairs)


def compare(one, other, bar):
    assert difference(one, other) <= bar


def equal(one, other):
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(one.trainable.parameters(), other.trainable.parameters(), strict=True))


def nothing_is_left_on(loaded):
    """Whether the shared base is as it was loaded: no adapter, dropout, token vectors or checkpointing."""
    layers = [layer for lora in loaded.lora.values() for layer in lora.layers.values()]
    return (
        all(layer.carried is None and layer.dropout is None and not layer.spans for layer in layers)
        and all(not embedding.held for embedding in loaded.prompts.embeddings)
        and not any(getattr(module, "gradient_checkpointing", False) for module in loaded.unet.modules())
    )
