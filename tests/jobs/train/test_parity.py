"""Twenty steps of our trainer against a plain loop of diffusers, transformers and PEFT: the same trajectory.

The plain loop is what the reference scripts do where they are right: stock UNet and text encoders, PEFT adapters, new
rows in the tokenizers' and encoders' own tables, diffusers' schedulers for noise and preconditioning, one AdamW or
Prodigy over everything. It shares with ours only the batches and the random draws, which any two programs differ in.
"""

from __future__ import annotations

import random

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, StableDiffusionXLPipeline
from peft import LoraConfig
from prodigyopt import Prodigy

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.generators import generator_for
from lorafleet.targets import PRESETS
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

STEPS = 20
CASES = {
    "lora": {"pivotal": None},
    "dora": {"pivotal": None, "dora": True},
    "min-snr": {"pivotal": None, "min_snr_gamma": 5.0},
    "accumulated": {"pivotal": None, "gradient_accumulation": 2, "lr_scheduler": "cosine", "max_grad_norm": 0.05},
    "text encoders": {"pivotal": None, "text_encoder_lora": True},
    "pivotal": {"pivotal": {"tokens": 2, "fraction": 0.5}},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i in range(3):
        render(random_scene(unseen_identity(0, "dog"), rng), 48).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module", params=["toy-playground", "toy-sdxl"])
def loaded(request):
    return LoadedBase.load(find_base(request.param))


def training(loaded, photos, **recipe):
    files = [f"{i}.png" for i in range(3)]
    spec = JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base=loaded.base.name, folder=str(photos),
        images=tuple(ImageSpec(file=f, caption=None, sha256=sha256_of(photos / f)) for f in files), class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe=Recipe(rank=4, batch_size=2, **recipe), steps=STEPS,
        validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip
    return Training.prepare(spec, loaded)


class PlainLoop:
    """Stock parts, with the start and the draws of `ours`."""

    def __init__(self, ours, loaded):
        self.ours, self.recipe, self.base = ours, ours.spec.recipe, loaded.base
        self.pipe = StableDiffusionXLPipeline.from_pretrained(loaded.base.path, dtype=torch.float32)
        for model in (self.pipe.unet, self.pipe.text_encoder, self.pipe.text_encoder_2):
            model.requires_grad_(False)
        self.edm = loaded.base.prediction == "edm"
        self.scheduler = EDMEulerScheduler() if self.edm else DDPMScheduler.from_config(_plain(loaded.base.scheduler))
        self.models = {"unet": self.pipe.unet}
        if self.recipe.text_encoder_lora:
            self.models |= {"text_encoder": self.pipe.text_encoder, "text_encoder_2": self.pipe.text_encoder_2}
        for part, model in self.models.items():
            names = list(PRESETS["attn"]) if part == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
            model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names, use_dora=self.recipe.dora))
            for mine, stock in self.pairs(part):
                stock.data.copy_(mine.detach())
        self.tables = self._new_tokens() if self.recipe.pivotal else []
        groups = [{"params": [p for p in self.models["unet"].parameters() if p.requires_grad]}]
        text = [p for part, m in self.models.items() if part != "unet" for p in m.parameters() if p.requires_grad]
        groups += [{"params": text}] if text else []
        if self.tables:
            groups += [{"params": [table.weight for table in self.tables], "weight_decay": 0.0}]
            groups[-1] |= {"lr": 3e-4} if self.recipe.optimizer == "adamw" else {}
        if self.recipe.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-4)
        else:
            self.optimizer = Prodigy(
                groups, lr=1.0, betas=(0.9, 0.99), weight_decay=0.01, decouple=True, use_bias_correction=True,
                safeguard_warmup=True,
            )  # fmt: skip

    def pairs(self, part):
        """(ours, stock) tensors of every layer of a model."""
        modules = {name.removeprefix("text_model."): m for name, m in self.models[part].named_modules()}
        for name, factors in self.ours.trainable.low_rank[part].factors().items():
            module = modules[name]
            yield factors.A, module.lora_A["default"].weight
            yield factors.B, module.lora_B["default"].weight
            if factors.m is not None:
                yield factors.m, module.lora_magnitude_vector["default"].weight

    def _new_tokens(self):
        tables = []
        for i, (tokenizer, encoder) in enumerate(
            ((self.pipe.tokenizer, self.pipe.text_encoder), (self.pipe.tokenizer_2, self.pipe.text_encoder_2))
        ):
            tokenizer.add_tokens(["<s0>", "<s1>"])
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            table = encoder.get_input_embeddings()
            table.weight.data[-2:] = self.ours.trainable.vectors[i].detach()
            table.weight.requires_grad_(True)
            table.weight.register_hook(lambda grad: torch.cat([torch.zeros_like(grad[:-2]), grad[-2:]]))
            tables.append(table)
        return tables

    def loss(self, index):
        batch, seed = self.ours.dataset.batch(index), self.recipe.seed
        z, n = batch.z, torch.randn(batch.z.shape, generator=generator_for(seed, "noise", index))
        sigma = self.ours.objective.draw(len(z), generator_for(seed, "levels", index))
        prompts = ["a photo of <s0><s1> dog" if self.tables else "a photo of TOK dog"] * len(z)
        context, _, pooled, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        extra = {"text_embeds": pooled, "time_ids": batch.time_ids}
        column = sigma[:, None, None, None]
        if self.edm:
            x = z + n * column
            x_in = self.scheduler.precondition_inputs(x, column)
            F = self.pipe.unet(x_in, 0.25 * sigma.log(), context, added_cond_kwargs=extra).sample
            D = self.scheduler.precondition_outputs(x, F, column)
            snr, error = 0.25 / sigma**2, (D - z).square().mean(dim=(1, 2, 3))
            return (
                error * (snr.clamp(max=self.recipe.min_snr_gamma or torch.inf) if self._snr else snr + 1) / 0.25
            ).mean()
        abar = self.scheduler.alphas_cumprod
        t = (((1 - abar) / abar).sqrt()[None] - sigma[:, None]).abs().argmin(dim=1)
        F = self.pipe.unet(self.scheduler.add_noise(z, n, t), t, context, added_cond_kwargs=extra).sample
        snr, error = abar[t] / (1 - abar[t]), (F - n).square().mean(dim=(1, 2, 3))
        return (error * (snr.clamp(max=self.recipe.min_snr_gamma) / snr if self._snr else 1)).mean()

    @property
    def _snr(self):
        return self.recipe.min_snr_gamma is not None

    def step(self, step):
        count = self.recipe.gradient_accumulation
        if self.tables and step > STEPS // 2:
            for table in self.tables:
                table.weight.requires_grad_(False)
                table.weight.grad = None
        total = 0.0
        for index in range((step - 1) * count, step * count):
            loss = self.loss(index) / count
            loss.backward()
            total += loss.item()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def _plain(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.mark.parametrize(
    ("optimizer", "case"),
    [
        *(("prodigy", case) for case in CASES),
        *(pytest.param("adamw", case, marks=[pytest.mark.slow] if case != "lora" else []) for case in CASES),
    ],
)
def test_twenty_steps_equal_diffusers_and_peft(loaded, photos, case, optimizer):
    options = {"weight_decay": 0.0} if case == "pivotal" else {}  # theirs would decay the whole vocabulary
    ours = training(loaded, photos, optimizer=optimizer, optimizer_options=options, **CASES[case])
    theirs = PlainLoop(ours, loaded)
    if options:
        for group in theirs.optimizer.param_groups:
            group["weight_decay"] = 0.0
    rates = [(1 + torch.cos(torch.tensor(torch.pi * i / STEPS)).item()) / 2 for i in range(STEPS)]
    start = [group["lr"] for group in theirs.optimizer.param_groups]
    losses = []
    for step in range(1, STEPS + 1):
        if case == "accumulated":
            for group, lr in zip(theirs.optimizer.param_groups, start, strict=True):
                group["lr"] = lr * rates[step - 1]
        losses.append((train_step_alone(ours, step), theirs.step(step)))
    mine, stock = zip(*losses, strict=True)
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(stock), rtol=2e-4, atol=1e-6)
    for part in theirs.models:
        for a, b in theirs.pairs(part):
            assert (a - b).norm() <= 2e-3 * b.norm() + 1e-7
    for vectors, table in zip(ours.trainable.vectors or (), theirs.tables, strict=True):
        torch.testing.assert_close(vectors, table.weight[-2:], rtol=1e-4, atol=1e-5)
