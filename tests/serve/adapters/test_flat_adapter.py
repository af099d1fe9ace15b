"""An adapter laid out flat: layers with and without DoRA's magnitude in one."""

import pytest
import torch

from lorafleet.numerics.factors import Factors
from lorafleet_serve.adapters.layout import ColumnLayout, FlatAdapter

SHAPES = {"a.to_q": (6, 4), "b.to_q": (4, 8)}


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_layer_without_dora_keeps_its_gain_of_1_beside_one_with(scale):
    draws = torch.Generator().manual_seed(0)
    layers = {}
    for name, (n_in, n_out) in SHAPES.items():
        A, B = torch.randn(2, n_in, generator=draws), torch.randn(n_out, 2, generator=draws)
        layers[name] = Factors(A, B, torch.rand(n_out, generator=draws) + 1 if name == "a.to_q" else None)
    W = torch.randn(4, 6, generator=draws)
    layers["a.to_q"] = layers["a.to_q"].with_norms(W)
    layout = ColumnLayout.of(SHAPES)
    _, B, gain = FlatAdapter.of(layers, layout, torch.float32).factors.parts(scale)
    for name, own in layers.items():
        _, own_B, own_gain = own.parts(scale)
        torch.testing.assert_close(B[layout.B[name]], own_B)
        torch.testing.assert_close(gain[layout.B[name]], torch.ones(8) if own_gain is None else own_gain)
