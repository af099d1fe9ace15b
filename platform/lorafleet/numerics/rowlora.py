"""Row LoRA: one linear layer, many adapters, each group of batch rows with its own.

    y = gain_g (W x) + bias + B_g (A_g x)            g: the group that a batch row belongs to

The same layer trains (a group is a job) and serves (a group is an image; its guidance pair shares the factors). A group
without an adapter has zero factors and a gain of 1, so it adds exactly 0. Knows models' layers and what they carry now;
refuses to know files, requests and jobs. What is stacked, and DoRA's gain, is in `factors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorafleet.numerics.factors import Factors, Group, Layers, Stacked, stack


@dataclass(frozen=True)
class RowDropout:
    """Dropout of the low-rank path's input, each group with its own rate and seed.

    A mask is a function of (seed, layer), so that recomputing a layer under gradient checkpointing gives it again.
    """

    rates: Sequence[float]
    seeds: Sequence[int]

    def __call__(self, x: Tensor, layer: int) -> Tensor:
        """`x` [g, n, in], scaled so that its mean stays."""
        rows = []
        for part, rate, seed in zip(x, self.rates, self.seeds, strict=True):
            generator = torch.Generator(x.device).manual_seed((seed * 1009 + layer) % 2**63)
            rows.append(part * torch.empty_like(part).bernoulli_(1 - rate, generator=generator) / (1 - rate))
        return torch.stack(rows)


class RowLoRALinear(nn.Module):
    """A frozen linear layer plus one low-rank pair for each group of rows."""

    def __init__(self, base: nn.Linear, index: int = 0) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.carried: Stacked | None = None
        self.dropout: RowDropout | None = None
        self.spans: Sequence[tuple[slice, Stacked]] = ()

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n, ..., in] with n a multiple of the groups; the rows of one group are neighbours.

        Under `spans` each span of rows is so divided among its own groups, and rows in none pay nothing.
        """
        y: Tensor = self.base(x)
        for rows, stacked in self.spans:
            y[rows] += self._delta(x[rows], y[rows], stacked)
        return y if self.carried is None else y + self._delta(x, y, self.carried)

    def _delta(self, x: Tensor, y: Tensor, stacked: Stacked) -> Tensor:
        A, B = stacked.A.to(x.dtype), stacked.B.to(x.dtype)
        rows = x.reshape(len(A), -1, x.shape[-1])
        low = (rows if self.dropout is None else self.dropout(rows, self.index)) @ A.mT
        delta = low @ B.mT
        if stacked.gain is not None:
            plain = y if self.base.bias is None else y - self.base.bias
            delta = delta + (stacked.gain - 1).to(x.dtype)[:, None] * plain.reshape(delta.shape)
        return delta.reshape(y.shape)


class RowLoRA:
    """All linear layers of one model that can carry adapters, and what each group of the next forward carries.

    Wraps the layers in place, those for which `wanted(name)` holds. A name never has transformers' `text_model.` before
    it, which versions of CLIP differ in.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[str], bool]) -> None:
        found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        self.layers: dict[str, RowLoRALinear] = {}
        for name, module in found:
            plain = name.removeprefix("text_model.")
            if wanted(plain):
                self.layers[plain] = layer = RowLoRALinear(module, len(self.layers))
                model.set_submodule(name, layer)

    def carry(self, groups: Sequence[Group], dropout: RowDropout | None = None) -> None:
        """Makes the next forwards carry these groups' adapters; DoRA's norms must be worked out (`with_norms`)."""
        self.set(stack(groups), dropout)

    def set(self, stacked: Mapping[str, Stacked] | None, dropout: RowDropout | None = None) -> None:
        """Installs what `stack` made; None clears all."""
        for name, layer in self.layers.items():
            layer.carried = stacked.get(name) if stacked is not None else None
            layer.dropout = dropout

    def set_spans(self, spans: Sequence[tuple[slice, Mapping[str, Stacked]]]) -> None:
        """Makes the next forwards carry adapters on spans of the batch's rows, written in place: for inference."""
        for name, layer in self.layers.items():
            layer.spans = tuple((rows, stacked[name]) for rows, stacked in spans if name in stacked)

    def with_norms(self, layers: Layers) -> dict[str, Factors]:
        """An adapter's factors with DoRA's norms for this model's weights."""
        return {name: factors.with_norms(self.layers[name].base.weight) for name, factors in layers.items()}

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each layer by name."""
        return {name: (layer.base.in_features, layer.base.out_features) for name, layer in self.layers.items()}
