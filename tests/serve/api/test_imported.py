"""Imported files give the pictures of stock diffusers with the same files."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load, load_file, save_file

from lorafleet.bases import find_base
from lorafleet.bundle.folder_registry import version_of
from lorafleet.formats.export import kohya_tensors
from lorafleet.formats.importing import Import, make_bundle
from lorafleet.numerics.samplers import scheduler_for
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest

BASE = find_base("toy-sdxl")
BAR = 2 / 255


@pytest.fixture(scope="module")
def engine():
    made = StepEngine(Pipeline.load(BASE), max_rows=4)
    yield made
    made.close()


@pytest.fixture(scope="module")
def factors(tools, tmp_path_factory):
    """Of an adapter like LCM-LoRA, under PEFT's names."""
    return load(tools["stock_weights"](BASE, 4, 4, 3, 0.05, tmp_path_factory.mktemp("stock"), tools["FEW_STEPS"]))


def learned(folder):
    draws = torch.Generator().manual_seed(4)
    save_file({key: torch.randn(2, w, generator=draws) for key, w in (("clip_l", 48), ("clip_g", 64))}, folder / "t")
    return {"embeddings": folder / "t"}


def stock(file, prompt, more):
    pipe = StableDiffusionXLPipeline.from_pretrained(BASE.path, dtype=torch.float32, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler_for("lcm", BASE.scheduler)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    if more:
        vectors, names = load_file(more["embeddings"]), ["<s0>", "<s1>"]
        for key, part in (("clip_l", ""), ("clip_g", "_2")):
            pipe.load_textual_inversion(
                vectors[key], names, getattr(pipe, "tokenizer" + part), getattr(pipe, "text_encoder" + part)
            )
    return pipe(
        prompt, num_inference_steps=4, guidance_scale=1.0, width=BASE.resolution, height=BASE.resolution,
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip


KINDS = {  # (scale in kohya's alpha or None for PEFT's names, what is imported beside, our prompt, stock's prompt)
    "few steps, PEFT's names": (None, lambda _: {}, "a red mug", "a red mug"),
    "kohya's names, words": (0.5, lambda _: {"words": "a blue dog"}, "<few> on a beach", "a blue dog on a beach"),
    "kohya's names, learned tokens": (0.5, learned, "TOK on a beach", "<s0><s1> on a beach"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_of_stock_diffusers(engine, factors, tmp_path, kind):
    scale, beside, prompt, theirs = KINDS[kind]
    file = tmp_path / "few.safetensors"
    save_file(factors if scale is None else kohya_tensors(factors, scale), file)
    more = beside(tmp_path)
    bundle = make_bundle(Import(file=file, name="few", base="toy-sdxl", **more), tmp_path / "bundles").write()
    use = AdapterUse(version_of(bundle.path), 1.0)

    def made(*adapters):
        request = GenerateRequest(
            prompt if adapters else theirs, 7, adapters=adapters, steps=4, scheduler="lcm", guidance_scale=1.0
        )
        return np.asarray(engine.submit(request).result(120).image, dtype=np.float64) / 255

    ours = made(use)
    expected = np.asarray(stock(file, theirs, {k: v for k, v in more.items() if k == "embeddings"})) / 255
    assert np.abs(ours - expected).max() <= BAR
    assert np.abs(ours - made()).max() > 10 * BAR  # it does something


def test_one_training_is_one_picture_whichever_program_wrote_it(engine, factors, tmp_path):
    """OneTrainer's file with its embedding inside, and diffusers' two files of the same factors and vectors."""
    token = learned(tmp_path)
    bundled = {f"bundle_emb.my dog.{key}": rows for key, rows in load_file(token["embeddings"]).items()}
    save_file(kohya_tensors(factors, 1.0) | bundled, tmp_path / "onetrainer.safetensors")
    save_file(factors, tmp_path / "diffusers.safetensors")

    def picture(name, **more):
        wanted = Import(file=tmp_path / f"{name}.safetensors", name="few", base="toy-sdxl", **more)
        use = AdapterUse(version_of(make_bundle(wanted, tmp_path / name).write().path), 1.0)
        request = GenerateRequest("a photo of <few>", 7, adapters=(use,), steps=3, scheduler="lcm", guidance_scale=1.0)
        return np.asarray(engine.submit(request).result(120).image)

    assert np.array_equal(picture("onetrainer"), picture("diffusers", **token))
