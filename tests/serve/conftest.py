"""Bundles made the stock way (PEFT and diffusers write the weights), and engines on the toy bases."""

import zlib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS, AdapterCard, Trigger, write_bundle
from lorafleet.bundle.folder_registry import FolderRegistry, version_of
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PRESETS
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse

BASES = ("toy-sdxl", "toy-playground")


def card_for(base, name, rank, tokens=(), alpha=None, text="red dog"):
    triggers = (Trigger(trigger=f"<{name}>", abstraction="TOK", tokens=tokens, text="" if tokens else text),)
    return AdapterCard(
        name=name, base=base.name, base_fingerprint=base.fingerprint, prediction=base.prediction, rank=rank,
        alpha=alpha or rank, targets=PRESETS["attn"], triggers=triggers, class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="0", images=4, steps=10,
        licence=base.licence, job_id="0" * 16, run_id=f"run-{name}", lorafleet_version="0.1.0",
    )  # fmt: skip


def stock_weights(base, rank, alpha, seed, strength, folder, targets):
    """pytorch_lora_weights.safetensors as diffusers saves a PEFT adapter, with random factors."""
    unet = UNet2DConditionModel.from_pretrained(base.path, subfolder="unet", dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(targets))
    unet.add_adapter(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * strength
    layers = get_peft_model_state_dict(unet)
    if targets == PRESETS["attn"]:  # diffusers renames attention alone, and then reads all by the first key's spelling
        layers = convert_state_dict_to_diffusers(layers)
    metadata = {"r": rank, "lora_alpha": alpha or rank, "target_modules": list(targets)}
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata, weight_name=WEIGHTS
    )
    return (Path(folder) / WEIGHTS).read_bytes()


FEW_STEPS = [
    *PRESETS["attn+ff"], "proj_in", "proj_out", "time_emb_proj", "conv1", "conv2", "conv_shortcut",
    "downsamplers.0.conv", "upsamplers.0.conv",
]  # fmt: skip
"""What LCM-LoRA for SDXL adapts."""


def make_bundle(
    root, base, name, *, rank=4, alpha=None, tokens=0, strength=0.12, weights=None, base_card=None, targets=None
):
    """A whole bundle under root/name; `weights` replaces the stock tensors by key."""
    seed = zlib.crc32(name.encode())
    if weights is None:
        data = stock_weights(base, rank, alpha, seed, strength, root / f".stock-{name}", targets or PRESETS["attn"])
    else:
        data = save(weights)
    files = {WEIGHTS: data}
    if tokens:
        generator = torch.Generator().manual_seed(seed + 1)
        files[EMBEDDINGS] = save({
            "clip_l": torch.randn(tokens, 48, generator=generator),
            "clip_g": torch.randn(tokens, 64, generator=generator),
        })  # fmt: skip
    card = base_card or card_for(base, name, rank, tuple(range(tokens)), alpha)
    return write_bundle(root / name, card, files)


def dora_weights(base, rank, seed):
    """Random DoRA of every UNet layer, convolutions too, and of both text encoders' attention, by diffusers key."""
    loaded, generator = LoadedBase.load(base), torch.Generator().manual_seed(seed)
    made = {}
    for part, lora in loaded.lora.items():
        before, m = (f"{part}.", "lora_magnitude_vector")
        if part != "unet":
            before, m = f"{part}.text_model.", "lora_magnitude_vector.weight"
        for name, layer in lora.layers.items():
            W = layer.base.weight.detach()
            n_out, ones = len(W), [1] * (W.dim() - 2)
            made[f"{before}{name}.lora_A.weight"] = torch.randn(rank, *W.shape[1:], generator=generator) * 0.1
            made[f"{before}{name}.lora_B.weight"] = torch.randn(n_out, rank, *ones, generator=generator) * 0.1
            noise = 1 + 0.1 * torch.randn(n_out, generator=generator)
            made[f"{before}{name}.{m}"] = (W.flatten(1).norm(dim=1) * noise).view(*ones[:1], -1, *ones)
    return made


def some_weights(engine, rank=2, value=0.01):
    """Valid tensors for every linear layer of an engine's base, by diffusers key."""
    made = {}
    for layer, (n_in, n_out) in engine.model.loaded.lora["unet"].linear.items():
        made[f"unet.{layer}.lora.down.weight"] = torch.full((rank, n_in), value)
        made[f"unet.{layer}.lora.up.weight"] = torch.full((n_out, rank), value)
    return made


@pytest.fixture(scope="session")
def bundle_root(tmp_path_factory):
    """root/<base>/<adapter>: two with tokens, one without, one with another alpha, one on convolutions, a DoRA."""
    root = tmp_path_factory.mktemp("bundles")
    for base_name in BASES:
        base = find_base(base_name)
        make_bundle(root / base_name, base, "dog-rex", rank=4, tokens=2)
        make_bundle(root / base_name, base, "mug-red", rank=8, tokens=1)
        make_bundle(root / base_name, base, "plain", rank=2)
        make_bundle(root / base_name, base, "half", rank=4, alpha=2.0, tokens=3)
        make_bundle(root / base_name, base, "few-steps", rank=4, strength=0.05, targets=FEW_STEPS)
        card = card_for(base, "dora", 3, tokens=(0,)).with_changes(dora=True, text_encoder_rank=3)
        make_bundle(root / base_name, base, "dora", tokens=1, weights=dora_weights(base, 3, 7), base_card=card)
    return root


@pytest.fixture(scope="session", params=BASES)
def engine(request):
    made = StepEngine(Pipeline.load(find_base(request.param)), max_rows=12)
    yield made
    made.close()


@pytest.fixture(scope="session")
def playground():
    made = StepEngine(Pipeline.load(find_base("toy-playground")), max_rows=12)
    yield made
    made.close()


@pytest.fixture
def use(bundle_root):
    """use(engine, "dog-rex", scale) -> AdapterUse of that engine's base."""

    def make(engine, name, scale=1.0):
        return AdapterUse(version_of(bundle_root / engine.model.base.name / name), scale)

    return make


@pytest.fixture
def registry(bundle_root):
    return FolderRegistry(bundle_root / "toy-playground")


@pytest.fixture(scope="session")
def tools():
    """The makers above, for tests that build their own bundles."""
    return {
        "make_bundle": make_bundle,
        "card_for": card_for,
        "some_weights": some_weights,
        "stock_weights": stock_weights,
        "FEW_STEPS": FEW_STEPS,
    }
