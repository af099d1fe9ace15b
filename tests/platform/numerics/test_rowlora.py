"""Row LoRA against PEFT: each group of a mixed batch equals PEFT with that group's adapters alone, DoRA included."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextModel

from lorafleet.bases import find_base
from lorafleet.numerics.factors import Factors, stack
from lorafleet.numerics.rowlora import RowDropout, RowLoRA
from lorafleet.targets import PRESETS, TEXT, is_target, select


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(
        find_base("toy-sdxl").path, subfolder="unet", dtype=torch.float32, use_safetensors=True
    ).eval()


@pytest.fixture(scope="module")
def plain():
    return unet()


@pytest.fixture(scope="module")
def wrapped():
    model = unet()
    return model, RowLoRA(model, lambda name: True)


CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out"]
"""3x3 with stride 1 and 2, and 1x1; those of LCM-LoRA and LoCon, and the first and the last."""


def factors_for(lora, rank, seed, targets="attn", dora=False):
    """Random factors on the target layers; DoRA's magnitudes are up to 20 % off the weights' norms."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in select(lora.linear if targets == "all-linear" else lora.layers, targets):
        W = lora.layers[name].base.weight.detach().flatten(1)
        A = torch.randn(rank, W.shape[1], generator=generator) / rank
        B = torch.randn(len(W), rank, generator=generator) * 0.1
        m = W.norm(dim=1) * (1 + 0.2 * torch.rand(len(W), generator=generator)) if dora else None
        made[name] = Factors(A, B, m)
    return lora.with_norms(made)


def inputs(rows):
    generator = torch.Generator().manual_seed(5)
    return {
        "sample": torch.randn(rows, 4, 8, 8, generator=generator),
        "timestep": torch.rand(rows, generator=generator) * 900,
        "encoder_hidden_states": torch.randn(rows, 32, 112, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, 64, generator=generator),
            "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * rows),
        },
    }


def rows_of(kwargs, rows):
    return {k: rows_of(v, rows) if isinstance(v, dict) else v[rows] for k, v in kwargs.items()}


def peft_model(plain, group):
    """A copy of the model with PEFT adapters added the stock way, each with its scale."""
    model = copy.deepcopy(plain)
    for i, (factors, _) in enumerate(group):
        first = next(iter(factors.values()))
        rank = first.A.shape[0]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(factors), use_dora=first.m is not None)
        model.add_adapter(config, f"a{i}")
        for name, layer in factors.items():
            module = model.get_submodule(name)
            copy_to(module.lora_A[f"a{i}"], layer.A)
            copy_to(module.lora_B[f"a{i}"], layer.B)
            if layer.m is not None:
                copy_to(module.lora_magnitude_vector[f"a{i}"], layer.m)
    model.set_adapters([f"a{i}" for i in range(len(group))], [scale for _, scale in group])
    return model


def copy_to(module, value):
    module.weight.data.copy_(value.view_as(module.weight))


@torch.no_grad()
def by_peft(plain, group, kwargs):
    return peft_model(plain, group)(**kwargs).sample


@torch.no_grad()
def test_every_group_of_a_mixed_batch_equals_peft_alone(plain, wrapped):
    model, lora = wrapped
    a, b, c = (factors_for(lora, rank, seed) for seed, rank in enumerate((4, 8, 2)))
    d = factors_for(lora, 3, 3, dora=True)
    e = factors_for(lora, 5, 4, "attn+ff", dora=True)
    f = factors_for(lora, 2, 5, "all-linear")
    g = factors_for(lora, 4, 6, CONVOLUTIONS)
    h = factors_for(lora, 3, 7, [*PRESETS["attn"], *CONVOLUTIONS], dora=True)
    groups = [
        [(a, 1.0)], [], [(b, 0.6)], [(a, 0.5), (c, 1.2)], [(c, -1.0)], [(d, 1.0)], [(e, 0.7)], [(d, 0.4), (e, 1.1)],
        [(f, 1.0)], [(a, 1.0), (d, 0.8)], [(g, 0.8)], [(h, 0.5)], [(a, 1.0), (g, -0.5)], [(g, 0.7), (h, 0.6)],
    ]  # fmt: skip
    kwargs = inputs(2 * len(groups))
    lora.carry(groups)
    mixed = model(**kwargs).sample
    lora.set(None)
    for i, group in enumerate(groups):
        pair = slice(2 * i, 2 * i + 2)
        own = rows_of(kwargs, pair)
        expected = by_peft(plain, group, own) if group else plain(**own).sample
        torch.testing.assert_close(mixed[pair], expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
def test_a_training_step_has_pefts_gradients(plain, wrapped, dora):
    model, lora = wrapped
    start = factors_for(lora, 4, 1, dora=dora)
    leaves = {
        name: Factors(*(t.detach().clone().requires_grad_() for t in (f.A, f.B, *([f.m] if dora else []))))
        for name, f in start.items()
    }
    kwargs, target = inputs(3), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    lora.carry([[(lora.with_norms(leaves), 1.0)]])
    ours = (model(**kwargs).sample - target).square().mean()
    lora.set(None)
    ours.backward()
    stock = peft_model(plain, [(start, 1.0)]).train()
    theirs = (stock(**kwargs).sample - target).square().mean()
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    for name, factors in leaves.items():
        module = stock.get_submodule(name)
        pairs = [(factors.A, module.lora_A), (factors.B, module.lora_B)]
        pairs += [(factors.m, module.lora_magnitude_vector)] if dora else []
        for mine, its in pairs:
            torch.testing.assert_close(mine.grad, its["a0"].weight.grad, rtol=2e-3, atol=2e-7)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 9), scale=st.floats(-3, 3))
def test_the_low_rank_identity_gives_the_norms(seed, rank, scale):
    """|w + s b A|^2 without ever forming B A, in float64."""
    generator = torch.Generator().manual_seed(seed)
    W, A, B = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((7, 5), (rank, 5), (7, rank)))
    m = torch.ones(7, dtype=torch.float64)
    _, scaled, gain = Factors(A, B, m).with_norms(W).parts(scale)
    norm = (W + scale * B @ A).norm(dim=1)
    torch.testing.assert_close(gain, 1 / norm, rtol=1e-8, atol=0)
    torch.testing.assert_close(scaled, scale * B / norm[:, None], rtol=1e-8, atol=1e-12)


@torch.no_grad()
def test_a_group_without_adapter_or_at_scale_0_is_the_base_to_the_bit(plain, wrapped):
    model, lora = wrapped
    kwargs = inputs(6)
    dora = factors_for(lora, 4, 2, dora=True)
    lora.carry([[], [(factors_for(lora, 4, 1), 3.0)], [(dora, 0.0)]])
    mixed = model(**kwargs).sample
    lora.set(None)
    base = plain(**kwargs).sample
    assert torch.equal(mixed[:2], base[:2])
    assert torch.equal(mixed[4:], base[4:])
    assert not torch.allclose(mixed[2:4], base[2:4], atol=1e-3)
    assert torch.equal(model(**kwargs).sample, base)


@torch.no_grad()
def test_text_encoder_lora_equals_peft():
    path = find_base("toy-sdxl").path
    stock, model = (
        CLIPTextModel.from_pretrained(path, subfolder="text_encoder", dtype=torch.float32).eval() for _ in range(2)
    )
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=list(TEXT)), stock)
    lora = RowLoRA(model, lambda name: is_target(name, TEXT))
    factors = factors_for(lora, 3, 0, "all-linear")
    for name, layer in factors.items():
        module = next(m for n, m in stock.named_modules() if n.removeprefix("text_model.") == name)
        module.lora_A["default"].weight.data.copy_(layer.A)
        module.lora_B["default"].weight.data.copy_(layer.B)
    ids = torch.arange(8)[None]
    lora.carry([[(factors, 1.0)]])
    torch.testing.assert_close(model(ids).last_hidden_state, stock(ids).last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("targets", ["attn", "attn+ff", "all-linear", ["to_q", "attn2.to_v"]])
def test_it_adapts_what_peft_adapts(plain, wrapped, targets):
    model = copy.deepcopy(plain)
    names = targets if not isinstance(targets, str) else list(PRESETS.get(targets, wrapped[1].linear))
    model.add_adapter(LoraConfig(r=1, target_modules=names))
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert set(select(wrapped[1].linear, targets)) == adapted


def test_stack_is_differentiable_and_folds_the_scale():
    A, B = torch.randn(2, 3, requires_grad=True), torch.ones(5, 2, requires_grad=True)
    layer = stack([[({"x": Factors(A, B)}, 0.5)], []])["x"]
    assert layer.A.shape == (2, 2, 3)
    assert layer.B.shape == (2, 5, 2)
    assert torch.equal(layer.B[0], torch.full((5, 2), 0.5))
    assert not layer.B[1].any()
    (layer.A.sum() + layer.B.sum()).backward()
    assert torch.equal(B.grad, torch.full((5, 2), 0.5))
    assert torch.equal(A.grad, torch.ones(2, 3))


def test_no_adapter_at_all_stacks_to_nothing():
    assert stack([[], []]) == {}


def test_dropout_is_its_groups_own_and_the_same_when_recomputed():
    x = torch.ones(2, 400, 5)
    drop = RowDropout((0.25, 0.0), (7, 8))
    first = drop(x, 3)
    assert torch.equal(first, drop(x, 3))
    assert not torch.equal(first, drop(x, 4))
    assert torch.equal(first[:1], RowDropout((0.25,), (7,))(x[:1], 3))
    assert torch.equal(first[1], x[1])
    assert first[0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (first[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
