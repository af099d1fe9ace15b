"""Factors in one flat vector: jobs of other ranks, layers and scales in one layout add what each adds by itself."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lorafleet.numerics.factors import Factors, stack
from lorafleet.numerics.flat_factors import Layout
from lorafleet.numerics.rowlora import RowLoRA

SIZES = {"a": (5, 3), "b": (3, 4), "c": (4, 2)}
LAYOUTS = st.builds(
    lambda names, rank, dora: Layout(tuple((name, *SIZES[name]) for name in names), rank, dora),
    st.lists(st.sampled_from("abc"), min_size=1, unique=True),
    st.integers(1, 4),
    st.booleans(),
)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        for name, (n_in, n_out) in SIZES.items():
            self.add_module(name, nn.Linear(n_in, n_out).double())

    def forward(self, x):
        return self.c(self.b(self.a(x)))


def carrying(model, lora, x, stacked):
    with lora.carrying(stacked):
        return model(x)


@given(inner=LAYOUTS, other=LAYOUTS)
def test_what_is_embedded_comes_back_and_the_rest_is_zero(inner, other):
    outer = Layout.covering([inner, other])
    flat = torch.arange(1.0, inner.size + 1)
    wide = outer.embed(inner, flat)
    assert wide.numel() == outer.size
    assert torch.equal(outer.extract(inner, wide), flat)
    assert int((wide != 0).sum()) == inner.size
    for name, factors in inner.factors(flat).items():
        embedded = outer.factors(wide)[name]
        assert torch.equal(embedded.A[: inner.rank], factors.A)
        assert torch.equal(embedded.B[:, : inner.rank], factors.B)
        if factors.m is not None:
            assert torch.equal(embedded.m, factors.m)


@settings(max_examples=60, deadline=None)
@given(layouts=st.lists(LAYOUTS, min_size=1, max_size=4), more=LAYOUTS, seed=st.integers(0, 99))
def test_groups_of_one_layout_are_what_stacking_each_by_itself_gives(layouts, more, seed):
    """`factors.stack`, whose parity with PEFT is tested elsewhere, is the oracle, of outputs and of gradients."""
    torch.manual_seed(seed)
    model, outer = Chain(), Layout.covering([*layouts, more])
    lora = RowLoRA(model, lambda _: True)
    scales = [0.5 + i for i in range(len(layouts))]
    flats = [torch.randn(each.size, dtype=torch.float64, requires_grad=True) for each in layouts]
    x, weight = torch.randn(len(layouts) * 2, 5).double(), torch.randn(len(layouts) * 2, 2).double()

    wide = torch.stack([outer.embed(own, flat, s) for own, flat, s in zip(layouts, flats, scales, strict=True)])
    stacked = outer.stacked(lora, wide, torch.tensor([outer.magnitudes(own) for own in layouts]))
    ours = carrying(model, lora, x, stacked)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), flats, allow_unused=True)

    groups = [
        [(lora.with_norms(own.factors(flat)), scale)]
        for own, flat, scale in zip(layouts, flats, scales, strict=True)
    ]  # fmt: skip
    right = carrying(model, lora, x, stack(groups))
    right_gradients = torch.autograd.grad((right * weight).sum(), flats, allow_unused=True)

    torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)
    leaf = wide.detach().requires_grad_()
    own_stack = outer.stacked(lora, leaf, torch.tensor([outer.magnitudes(own) for own in layouts]))
    (of_wide,) = torch.autograd.grad((carrying(model, lora, x, own_stack) * weight).sum(), [leaf])
    extracted = [outer.extract(own, g, s) for own, g, s in zip(layouts, of_wide, scales, strict=True)]
    for ours_of_one, through, right_of_one in zip(ours_gradients, extracted, right_gradients, strict=True):
        torch.testing.assert_close(ours_of_one, right_of_one, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(through, right_of_one, rtol=1e-10, atol=1e-12)


def test_a_group_without_an_adapter_adds_nothing():
    model = Chain()
    lora, layout = RowLoRA(model, lambda _: True), Layout((("a", 5, 3), ("c", 4, 2)), 2, dora=True)
    x = torch.randn(4, 5).double()
    plain = model(x)
    flat = torch.zeros(2, layout.size).double()
    flat[0] = torch.randn(layout.size)
    dora = torch.tensor([layout.magnitudes(layout), layout.magnitudes(None)])
    worn = carrying(model, lora, x, layout.stacked(lora, flat, dora))
    assert not torch.allclose(worn[:2], plain[:2])
    assert torch.equal(worn[2:], plain[2:])


def test_all_factors_are_cast_at_once_and_magnitudes_are_not():
    model = Chain().bfloat16()
    lora = RowLoRA(model, lambda _: True)
    layout = Layout((("b", 3, 4),), 2, dora=True)
    made = layout.stacked(lora, torch.randn(1, layout.size), dtype=torch.bfloat16)
    assert (made["b"].A.dtype, made["b"].B.dtype, made["b"].gain.dtype) == (torch.bfloat16,) * 2 + (torch.float32,)


def test_norms_of_a_frozen_weight_are_worked_out_once_and_on_its_device():
    layer = RowLoRA(model := Chain(), lambda _: True).layers["a"]
    factors = Factors(torch.randn(2, 5).double(), torch.randn(3, 2).double(), torch.ones(3).double())
    first = layer.with_norms(factors)
    torch.testing.assert_close(first.norms, factors.with_norms(model.a.base.weight).norms)
    assert layer.with_norms(factors).norms.equal(first.norms)
    as_float = Factors(*(t.float() for t in factors.tensors()))
    assert layer.with_norms(as_float).norms.dtype == torch.float32
