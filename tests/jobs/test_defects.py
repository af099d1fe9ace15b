"""One proof for each defect of the reference scripts, by its number in the list of trainers' defects (3.11 and 2.6).

    1   latents of another image          test_data: latents_are_of_the_image_that_caption_and_time_ids_are_of
    2   order of prompts with prior       test_data: rows_with_prior_keep_their_own_prompts_time_ids_and_weights
    3   no start and end tokens           here (P8)
    4   bf16 adapters                     here
    5   min-SNR of v                      test_objectives: min_snr_is_the_papers_for_epsilon_and_for_v
    6   EDM weights of prior rows         here
    7   EDM levels, half precision        test_objectives: edm_samplers, edm_input_and_loss..., edm_target_...
    8   snr_gamma on an EDM base          test_objectives: min_snr_reaches_edm_bases_too
    9   tokens: resume, path, pivot       here (P1 to P4)
    10  time ids of class images          test_data: rows_with_prior_keep_their_own_prompts_time_ids_and_weights
    11  clip_skip                         here: no recipe has it, so none ignores it
    12  augmentation drawn once           test_data: augmentation_is_drawn_anew_in_each_epoch
    13  export of DoRA, text encoders     test_export; for diffusers itself test_train: stock_diffusers_makes_...
    14  stray files in the class folder   test_data_intake: stray_files_in_the_class_folder_are_passed_over
    15  "playground" in the path          test_objectives: the_family_comes_from_the_scheduler_not_from_the_name
    P1  embeddings lost on resume         test_checkpoint: tokens_survive_and_stay_frozen_...; here
    P6  tokens on several processes       one job is one process; there is nothing to wrap
    P9  cast and one-step pivot           here, with 4 and P3

The others are named by the tests below. Beside them, from 2.1, 2.2 and 2.4: `TOK` inside `TOK2`, the whole vocabulary
as a parameter, Prodigy with tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from null_tracker import NullTracker
from packs_here import train_job

from lorafleet.bases import find_base
from lorafleet.bundle.adapter import load_adapter
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.config.strict import parse
from lorafleet.errors import ManifestError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.generators import generator_for
from lorafleet.numerics.samplers import sampler_names, scheduler_for
from lorafleet.numerics.text import split_prompt
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ClassImages, ImageSpec, JobSpec
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training


@pytest.fixture(scope="module", params=["toy-sdxl", "toy-playground"])
def each_base(request):
    return LoadedBase.load(find_base(request.param))


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i in range(3):
        render(random_scene(unseen_identity(0, "dog"), rng), 48).save(folder / f"{i}.png")
    return folder


def job(loaded, photos, steps=6, **recipe):
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(3))
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base=loaded.base.name, folder=str(photos),
        images=images, class_images=ClassImages(folder=str(photos), images=images), class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe=Recipe(**{"rank": 4, "optimizer": "adamw"} | recipe), steps=steps,
        validation=Validation(prompts=("a photo of TOK dog at night",), steps=3), dataset_fingerprint="",
    )  # fmt: skip


def training(loaded, photos, steps=6, **recipe):
    return Training.prepare(job(loaded, photos, steps, **recipe), loaded)


def steps(work, *numbers):
    """Optimizer steps of those numbers, counted from 1; their losses."""
    return [train_step_alone(work, number) for number in numbers]


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("recipe", [{}, {"text_encoder_lora": True}])
def test_defect_03_p8_captions_are_encoded_as_stock_pipelines_encode_prompts(each_base, photos, recipe):
    """With frozen text encoders and, at its start, with their LoRA; without start and end both outputs are others."""
    captions = ["a photo of TOK dog", "a red dog, sitting on grass", "dog"]
    work = training(each_base, photos, pivotal=None, **recipe)
    with torch.no_grad():
        ours = work.prompts.encode(captions)
    pipe = StableDiffusionXLPipeline.from_pretrained(each_base.base.path, dtype=torch.float32)
    context, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours.context, context, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.pooled, pooled, rtol=1e-5, atol=1e-5)
    for encoder, tokenizer in ((pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2)):
        bare = tokenizer(captions[:1], add_special_tokens=False, padding="max_length", return_tensors="pt").input_ids
        state = encoder(bare, output_hidden_states=True).hidden_states[-2]
        width = state.shape[-1]
        part = context[:1, :, :width] if encoder is pipe.text_encoder else context[:1, :, -width:]
        assert (state - part).abs().max() > 1e-2


def test_defect_04_p9_a_bf16_base_has_fp32_adapters_gradients_and_moments(photos):
    """And so keeps updates that bf16 would round away, below 1/512 of a weight."""
    loaded = LoadedBase.load(find_base("toy-sdxl"), precision="bf16")
    work = training(loaded, photos, steps=3, text_encoder_lora=True, pivotal={"fraction": 1.0}, learning_rate=1e-6)
    trainable = work.trainable.parameters()
    held = [p for group in work.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in trainable]  # what is optimized is what is used
    for low in work.trainable.low_rank.values():
        low.flat.data += 0.02  # B is 0 at first, and A has no gradient
    start = copies(trainable)
    steps(work, 1, 2, 3)
    assert loaded.unet.dtype == torch.bfloat16
    for p, before in zip(trainable, start, strict=True):
        assert p.dtype == p.grad.dtype == torch.float32
        moments = work.optimizer.state[p]
        assert moments["exp_avg"].dtype == moments["exp_avg_sq"].dtype == torch.float32
        furthest = (p.detach() - before).abs().max()
        small = (before.abs() > 600 * furthest) & (p.grad != 0)
        change = (p.detach() - before)[small]
        assert small.sum() > 20
        assert (change != 0).float().mean() > 0.9
        assert ((before[small].bfloat16() + change.bfloat16()) == before[small].bfloat16()).all()


@pytest.mark.parametrize(("size", "class_size"), [(1, 1), (2, 2), (3, 1)])
def test_defect_06_each_row_with_prior_has_the_weight_of_its_own_noise_level(each_base, photos, size, class_size):
    """On an EDM base, and on one with timesteps trained as a denoiser; weights min(SNR, 1) / sigma_data^2 on D."""
    prior = {"mode": "images", "images": "here", "weight": 0.3, "batch_size": class_size}
    edm = each_base.base.prediction == "edm"
    work = training(each_base, photos, pivotal=None, batch_size=size, prior=prior, min_snr_gamma=1.0,
                    objective=None if edm else "edm", sigma_sampler="lognormal")  # fmt: skip
    data = 0.5 if edm else 1.0
    batch, seed = work.dataset.batch(1), work.spec.recipe.seed
    n = torch.randn(batch.z.shape, generator=generator_for(seed, "noise", 1))
    sigmas = work.objective.draw(len(batch.z), generator_for(seed, "levels", 1))
    assert len(sigmas.unique()) == size + class_size
    rows = []
    each_base.clear()
    for i, sigma in enumerate(sigmas):
        z, x = batch.z[i : i + 1], batch.z[i : i + 1] + sigma * n[i : i + 1]
        t = work.objective.noisy(z, n[i : i + 1], sigma[None]).t
        with torch.no_grad():
            text = work.prompts.encode([batch.captions[i]])
            F = each_base.predict(x / (sigma**2 + data**2).sqrt(), t, text, batch.time_ids[i : i + 1])
        root = (sigma**2 + data**2).sqrt()
        D = data**2 / root**2 * x + sigma * data / root * F if edm else x - sigma * F
        rows.append(min(data**2 / sigma**2, 1.0) / data**2 * (D - z).square().mean())
    by_hand = sum(rows[:size]) / size + 0.3 * sum(rows[size:]) / class_size
    (loss,) = steps(work, 2)  # of batch 1
    torch.testing.assert_close(torch.tensor(loss), by_hand, rtol=1e-4, atol=1e-6)


def test_defect_09_p1_p2_the_tokens_are_in_the_bundle_wherever_it_is_written(loaded, photos, tmp_path, monkeypatch):
    """A relative path with slashes, and the bundle keeps the embeddings; for a checkpoint see test_checkpoint."""
    spec = job(loaded, photos, steps=2, token_learning_rate=0.01)
    work = Training.prepare(spec, loaded)
    start = copies(work.trainable.vectors)
    steps(work, 1, 2)
    monkeypatch.chdir(tmp_path)
    bundle = train_job(
        spec, loaded, (tmp_path / "a/b/rex").relative_to(tmp_path), NullTracker(), lambda step, loss: None
    )
    kept = load_adapter(bundle.path, loaded).vectors
    assert equal(kept, copies(work.trainable.vectors))
    assert not equal(kept, start)


@pytest.mark.parametrize("optimizer", ["prodigy", "adamw", "lion", "adafactor"])
def test_defect_09_p3_p4_p9_frozen_tokens_keep_every_bit(loaded, photos, optimizer):
    """Whether training passes the pivot or starts behind it; neither decay nor momentum nor a rescaling moves them."""
    work = training(loaded, photos, optimizer=optimizer, pivotal={"fraction": 0.5})
    start = copies(work.trainable.vectors)
    seen = []
    for step in range(1, 7):
        steps(work, step)
        seen.append(copies(work.trainable.vectors))
    assert not equal(start, seen[2])
    assert all(equal(seen[2], later) for later in seen[3:])

    late = training(loaded, photos, optimizer=optimizer, pivotal={"fraction": 0.5})
    factors = copies([late.trainable.low_rank["unet"].flat])
    steps(late, 5, 6)
    assert equal(copies(late.trainable.vectors), start)
    assert not equal(copies([late.trainable.low_rank["unet"].flat]), factors)


def test_defect_p4_accumulated_tokens_change_once_an_optimizer_step(loaded, photos, monkeypatch):
    work = training(loaded, photos, gradient_accumulation=3, pivotal={"fraction": 1.0})
    at_micro_batch, asked = [], work.micro_batch
    monkeypatch.setattr(
        work, "micro_batch", lambda index: (at_micro_batch.append(copies(work.trainable.vectors)), asked(index))[1]
    )
    steps(work, 1, 2)
    assert len(at_micro_batch) == 6
    for a, b in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert equal(at_micro_batch[a], at_micro_batch[b])
    assert not equal(at_micro_batch[2], at_micro_batch[3])


@dataclass
class Pictures(NullTracker):
    """Keeps the last picture."""

    shown: list = field(default_factory=list)

    def image(self, key, step, image, caption=None):
        self.shown.append((step, np.asarray(image)[::4, ::4].astype(int)))


def test_defect_p5_published_pictures_are_made_with_the_learned_tokens(loaded, photos, tmp_path):
    """Nothing but tokens is learned; stock diffusers makes the picture with them and another one without."""
    pictures = Pictures()
    spec = job(loaded, photos, steps=3, unet_fraction=0, pivotal={"fraction": 1.0}, token_learning_rate=0.1)
    bundle = train_job(spec, loaded, tmp_path / "rex", pictures, lambda step, loss: None)
    step, shown = pictures.shown[-1]
    assert step == 3
    with_tokens, without = (by_stock(loaded.base, bundle, given) for given in (True, False))
    assert np.abs(shown - with_tokens).max() <= 2
    assert np.abs(shown - without).max() > 10


def by_stock(base, bundle, tokens):
    pipe = StableDiffusionXLPipeline.from_pretrained(base.path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler_for(sampler_names(base)[0], base.scheduler)
    if tokens:
        for key, encoder, tokenizer in (
            ("clip_l", pipe.text_encoder, pipe.tokenizer), ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
        ):  # fmt: skip
            vectors = bundle.embeddings()[key]
            pipe.load_textual_inversion(vectors, ["<s0>", "<s1>"], text_encoder=encoder, tokenizer=tokenizer)
    made = pipe(
        "a photo of <s0><s1> dog at night", num_inference_steps=3, guidance_scale=base.default_guidance,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return np.asarray(made.images[0]).astype(int)


@pytest.mark.parametrize("mode", ["images", "predict"])
def test_defect_p7_prior_preservation_with_frozen_text_encoders_and_no_tokens_trains(loaded, photos, mode):
    prior = {"mode": mode, "images": "here"}
    work = training(loaded, photos, pivotal=None, batch_size=2, prior=prior)
    start = copies(work.trainable.parameters())
    assert 0 < steps(work, 1)[0] < 100
    assert not equal(start, copies(work.trainable.parameters()))


def test_defect_11_p7_clip_skip_is_no_key_that_could_be_ignored():
    with pytest.raises(ManifestError, match="clip_skip"):
        parse(Recipe, {"clip_skip": 1}, "m.yaml", ManifestError)


def test_tok_is_not_found_inside_tok2(loaded, photos):
    """The reference makes "<s0><s1>2" of "TOK2"."""
    work = training(loaded, photos, pivotal={"abstractions": ["TOK", "TOK2"], "tokens": 2})
    pieces = split_prompt("TOK2 beside TOK", work.prompts.triggers)
    assert pieces == [(2, 3), " beside ", (0, 1)]


def test_prodigy_with_tokens_and_text_encoders_needs_no_rate_of_theirs(loaded, photos):
    work = training(loaded, photos, optimizer="prodigy", text_encoder_lora=True)
    start = copies(work.trainable.parameters())
    steps(work, *range(1, 7))  # behind the pivot too
    assert all(not torch.equal(a, b) for a, b in zip(start, copies(work.trainable.parameters()), strict=True))
    assert {group["lr"] for group in work.optimizer.param_groups} == {1.0}


def test_tokens_are_a_parameter_of_their_own_and_no_vocabulary_is_touched(loaded, photos):
    """4 x (w1 + w2) numbers beside the factors, where the reference has both tables with gradients and moments."""
    frozen = [p for part in (loaded.unet, *loaded.prompts.encoders) for p in part.parameters()]
    before = copies(frozen)
    work = training(loaded, photos, pivotal={"abstractions": ["TOK", "TOK2"], "tokens": 2, "fraction": 1.0})
    steps(work, 1, 2)
    factors = sum(4 * (i + o) for name, (i, o) in loaded.lora["unet"].linear.items() if ".to_" in name)
    wanted = factors + 4 * sum(loaded.prompts.widths)
    assert sum(p.numel() for group in work.optimizer.param_groups for p in group["params"]) == wanted
    moments = sum(t.numel() for s in work.optimizer.state.values() for t in s.values() if t.dim())
    assert moments == 2 * wanted
    assert equal(copies(frozen), before)
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    tables = [embedding.base.num_embeddings for embedding in loaded.prompts.embeddings]
    assert tables == [len(tokenizer) for tokenizer in loaded.prompts.tokenizers]
