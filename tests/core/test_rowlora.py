"""Row LoRA against PEFT: each group of a mixed batch equals PEFT with that group's adapters alone."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from lorafleet.bases import find_base
from lorafleet.numerics.rowlora import TARGETS, Factors, RowLoRA, new_factors, stack


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
    return model, RowLoRA(model, TARGETS["attn"])


def factors_for(shapes, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Factors(layer.A.detach(), torch.randn(layer.B.shape, generator=generator) * 0.1)
        for name, layer in new_factors(shapes, rank, generator).items()
    }


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


def by_peft(plain, group, kwargs):
    """The output with PEFT adapters added the stock way, each with its scale."""
    model = copy.deepcopy(plain)
    for i, (factors, _) in enumerate(group):
        rank = next(iter(factors.values())).A.shape[0]
        model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS["attn"])), f"a{i}")
        for name, layer in factors.items():
            module = model.get_submodule(name)
            module.lora_A[f"a{i}"].weight.data.copy_(layer.A)
            module.lora_B[f"a{i}"].weight.data.copy_(layer.B)
    model.set_adapters([f"a{i}" for i in range(len(group))], [scale for _, scale in group])
    with torch.no_grad():
        return model(**kwargs).sample


@torch.no_grad()
def test_every_group_of_a_mixed_batch_equals_peft_alone(plain, wrapped):
    model, lora = wrapped
    shapes = lora.shapes()
    a, b, c = (factors_for(shapes, rank, seed) for seed, rank in enumerate((4, 8, 2)))
    groups = [[(a, 1.0)], [], [(b, 0.6)], [(a, 0.5), (c, 1.2)], [(c, -1.0)]]
    kwargs = inputs(2 * len(groups))
    lora.set(stack(groups, shapes))
    mixed = model(**kwargs).sample
    lora.set(None)
    for i, group in enumerate(groups):
        pair = slice(2 * i, 2 * i + 2)
        own = rows_of(kwargs, pair)
        expected = by_peft(plain, group, own) if group else plain(**own).sample
        torch.testing.assert_close(mixed[pair], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_group_without_adapter_is_the_base_to_the_bit(plain, wrapped):
    model, lora = wrapped
    kwargs = inputs(4)
    lora.set(stack([[], [(factors_for(lora.shapes(), 4, 1), 3.0)]], lora.shapes()))
    mixed = model(**kwargs).sample
    lora.set(None)
    base = plain(**kwargs).sample
    assert torch.equal(mixed[:2], base[:2])
    assert not torch.allclose(mixed[2:], base[2:], atol=1e-3)
    assert torch.equal(model(**kwargs).sample, base)


def test_it_adapts_what_peft_adapts(plain, wrapped):
    model = copy.deepcopy(plain)
    model.add_adapter(LoraConfig(r=1, target_modules=list(TARGETS["attn"])))
    assert set(wrapped[1].layers) == {name for name, module in model.named_modules() if hasattr(module, "lora_A")}


def test_stack_is_differentiable_and_folds_the_scale():
    factors = new_factors({"x": (3, 5)}, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        factors["x"].B.fill_(1.0)
    stacked = stack([[(factors, 0.5)], []], {"x": (3, 5)})
    A, B = stacked["x"]
    assert A.shape == (2, 2, 3)
    assert B.shape == (2, 5, 2)
    assert torch.equal(B[0], torch.full((5, 2), 0.5))
    assert not B[1].any()
    (A.sum() + B.sum()).backward()
    assert torch.equal(factors["x"].B.grad, torch.full((5, 2), 0.5))
    assert torch.equal(factors["x"].A.grad, torch.ones(2, 3))


def test_no_adapter_at_all_stacks_to_nothing():
    assert stack([[], []], {"x": (3, 5)}) is None


def test_fresh_factors_change_nothing_and_follow_their_generator(plain, wrapped):
    model, lora = wrapped
    made = [new_factors(lora.shapes(), 4, torch.Generator().manual_seed(9)) for _ in range(2)]
    assert all(torch.equal(made[0][name].A, made[1][name].A) for name in lora.shapes())
    kwargs = inputs(2)
    with torch.no_grad():
        lora.set(stack([[(made[0], 1.0)]], lora.shapes()))
        assert torch.equal(model(**kwargs).sample, plain(**kwargs).sample)
        lora.set(None)
