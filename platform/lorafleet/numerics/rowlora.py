"""Row LoRA: one layer, many adapters, each group of batch rows with its own.

    y = gain_g (W x) + bias + B_g (A_g x)            g: the group that a batch row belongs to

The same layers train (a group is a job) and serve (a group is an image; its guidance pair shares the factors). A group
without an adapter has zero factors and a gain of 1, so it adds exactly 0. Of a convolution W and A are kernels and B
is 1x1, as in LoCon and PEFT; its A [r, in * kh * kw] is kept flat, so that all layers' factors are matrices. Knows
models' layers and the adapters that they carry now; refuses to know files, requests and jobs. Stacking and DoRA's gain
are in `factors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorafleet.numerics.factors import Factors, Group, Layers, Stacked, stack

LayerShape = tuple[int, ...]
"""A layer's (in, out); of a convolution (in, out, kh, kw)."""


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


class RowLayer(nn.Module):
    """A frozen layer plus one low-rank pair for each group of rows. Its subclasses know what A and B multiply."""

    base: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Linear | nn.Conv2d, index: int = 0) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.carried: Stacked | None = None
        self.dropout: RowDropout | None = None
        self.spans: Sequence[tuple[slice, Stacked]] = ()
        self._square: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n, ...] with n a multiple of the groups; the rows of one group are neighbours.

        Under `spans` each span of rows is so divided among its own groups, and rows in none pay nothing.
        """
        if self.carried is not None:
            return self._with(x, self.carried)
        y: Tensor = self.base(x)
        for rows, stacked in self.spans:
            self._add_to(y[rows], x[rows], stacked)
        return y

    @property
    def shape(self) -> LayerShape:
        """The shape of the layer that it wraps."""
        raise NotImplementedError

    def with_norms(self, factors: Factors) -> Factors:
        """Factors with DoRA's norms for this layer's weight, of which |w|^2 is worked out once: it is frozen."""
        if factors.m is None:
            return factors
        W, dtype = self.base.weight.flatten(1), factors.m.dtype
        if self._square is None or (self._square.dtype, self._square.device) != (dtype, W.device):
            self._square = W.detach().to(dtype).square().sum(dim=-1)
        return factors.with_norms(W, self._square)

    def _with(self, x: Tensor, stacked: Stacked) -> Tensor:
        """The output for `x` with the groups' adapters; differentiable."""
        y: Tensor = self.base(x)
        return y + self._delta(x, y, stacked)

    def _delta(self, x: Tensor, y: Tensor, stacked: Stacked) -> Tensor:
        """What the groups' adapters add to the base's output `y` for the input `x`."""
        raise NotImplementedError

    def _add_to(self, y: Tensor, x: Tensor, stacked: Stacked) -> None:
        """Adds what `_delta` returns to `y`, in place."""
        y += self._delta(x, y, stacked)


class RowLoRALinear(RowLayer):
    """A linear layer: `x` [n, ..., in]."""

    base: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)."""
        return self.base.in_features, self.base.out_features

    def _with(self, x: Tensor, stacked: Stacked) -> Tensor:
        if self.dropout is not None:
            return super()._with(x, stacked)
        frozen, A, B = (self.base.weight, self.base.bias), stacked.A.to(x.dtype), stacked.B.to(x.dtype)
        y: Tensor
        if stacked.gain is None:
            y = LowRankLinear.apply(x, *frozen, A, B)  # type: ignore[no-untyped-call]
        else:
            y = GainedLinear.apply(x, *frozen, A, B, (stacked.gain - 1).to(x.dtype))  # type: ignore[no-untyped-call]
        return y

    def _delta(self, x: Tensor, y: Tensor, stacked: Stacked) -> Tensor:
        delta = self._low(x, stacked) @ stacked.B.to(x.dtype).mT
        if stacked.gain is not None:
            plain = y if self.base.bias is None else y - self.base.bias
            delta = delta + (stacked.gain - 1).to(x.dtype)[:, None] * plain.reshape(delta.shape)
        return delta.reshape(y.shape)

    def _add_to(self, y: Tensor, x: Tensor, stacked: Stacked) -> None:
        if stacked.gain is not None:
            super()._add_to(y, x, stacked)
            return
        low = self._low(x, stacked)
        _grouped(y, len(low)).baddbmm_(low, stacked.B.to(x.dtype).mT)  # one pass over y instead of three

    def _low(self, x: Tensor, stacked: Stacked) -> Tensor:
        """A x of each group, [g, rows of a group, R]."""
        rows = _grouped(x, len(stacked.A))
        return (rows if self.dropout is None else self.dropout(rows, self.index)) @ stacked.A.to(x.dtype).mT


class LowRankLinear(torch.autograd.Function):
    """W x + bias + B_g (A_g x) of a frozen W: no kernel but the six products, which add to each other's output.

    Autograd's own way needs five more for each layer: sums, and copies of gradients that lie transposed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor) -> Tensor:
        """`x` [n, ..., in], W [out, in], A [g, r, in], B [g, out, r]; groups are of n / g neighbouring rows."""
        y = F.linear(x, W, bias)
        low = _grouped(x, len(A)) @ A.mT
        _grouped(y, len(A)).baddbmm_(low, B.mT)
        ctx.save_for_backward(x, W, A, B, low)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, W, A, B, low = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dy = dy.contiguous()
        rows, each = _grouped(dy, len(A)), _grouped(x, len(A))
        d_low = rows @ B
        dx = None
        if wanted[0]:
            dx = dy @ W
            _grouped(dx, len(A)).baddbmm_(d_low, A)
        return dx, None, None, d_low.mT @ each if wanted[3] else None, rows.mT @ low if wanted[4] else None


class GainedLinear(torch.autograd.Function):
    """gain_g (W x) + bias + B_g (A_g x) of a frozen W: DoRA's layer, in few kernels like `LowRankLinear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, above: Tensor) -> Tensor:
        """As `LowRankLinear`; `above` [g, out] is the gain less 1, which half precisions know better than the gain."""
        plain = F.linear(x, W)
        each = _grouped(plain, len(A))
        y = torch.addcmul(each, each, above[:, None])
        if bias is not None:
            y += bias
        low = _grouped(x, len(A)) @ A.mT
        y.baddbmm_(low, B.mT)
        ctx.save_for_backward(x, W, A, B, low, above, each)
        return y.view_as(plain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, W, A, B, low, above, plain = ctx.saved_tensors
        rows, each = _grouped(dy.contiguous(), len(A)), _grouped(x, len(A))
        d_low, dx = rows @ B, None
        if ctx.needs_input_grad[0]:
            d_plain = torch.addcmul(rows, rows, above[:, None])
            dx = (d_plain @ W).baddbmm_(d_low, A).view_as(x)
        return dx, None, None, d_low.mT @ each, rows.mT @ low, (rows * plain).sum(dim=1)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[n, ..., w] as [groups, rows of a group, w]."""
    return x.reshape(groups, -1, x.shape[-1])


class RowLoRAConv2d(RowLayer):
    """A convolution: `x` [n, in, h, w]. All groups' kernels A are one grouped convolution."""

    base: nn.Conv2d

    @property
    def shape(self) -> LayerShape:
        """(in, out, kh, kw)."""
        return self.base.in_channels, self.base.out_channels, *self.base.kernel_size

    def _delta(self, x: Tensor, y: Tensor, stacked: Stacked) -> Tensor:
        base, groups = self.base, len(stacked.A)
        A, B = stacked.A.to(x.dtype), stacked.B.to(x.dtype)
        rows = x.reshape(groups, -1, *x.shape[1:])
        side_by_side = (rows if self.dropout is None else self.dropout(rows, self.index)).transpose(0, 1).flatten(1, 2)
        kernels = A.reshape(-1, base.in_channels, *base.kernel_size)
        low = F.conv2d(side_by_side, kernels, None, base.stride, base.padding, base.dilation, groups)
        each = low.view(low.shape[0], groups, -1, *low.shape[2:]).transpose(0, 1).flatten(3)  # [g, n / g, r, h * w]
        delta = B[:, None] @ each
        if stacked.gain is not None:
            plain = y if base.bias is None else y - base.bias[:, None, None]
            delta = delta + (stacked.gain - 1).to(x.dtype)[:, None, :, None] * plain.reshape(delta.shape)
        return delta.reshape(y.shape)


def row_layer(module: nn.Module, index: int = 0) -> RowLayer | None:
    """A layer around `module` that can carry adapters; None for modules that cannot."""
    if isinstance(module, nn.Linear):
        return RowLoRALinear(module, index)
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        return RowLoRAConv2d(module, index)
    return None


class RowLoRA:
    """All layers of one model that can carry adapters; installs the adapters of the next forward's groups of rows.

    Wraps linear layers and convolutions in place, those for which `wanted(name)` holds. A name never has transformers'
    `text_model.` before it, which versions of CLIP differ in.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[str], bool]) -> None:
        self.layers: dict[str, RowLayer] = {}
        index = 0
        for name, module in list(model.named_modules()):
            plain = name.removeprefix("text_model.")
            layer = row_layer(module, index) if wanted(plain) else None
            if layer is not None:
                self.layers[plain] = layer
                model.set_submodule(name, layer)
                index += isinstance(layer, RowLoRALinear)  # dropout is drawn by it, and only these are trained

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear layers' (in, out) by name: those that are trained."""
        return {name: layer.shape for name, layer in self.layers.items() if isinstance(layer, RowLoRALinear)}

    def carry(self, groups: Sequence[Group], dropout: RowDropout | None = None) -> None:
        """Makes the next forwards carry these groups' adapters; DoRA's norms must be worked out (`with_norms`)."""
        self.set(stack(groups), dropout)

    def set(self, stacked: Mapping[str, Stacked] | None, dropout: RowDropout | None = None) -> None:
        """Installs what `stack` made; None clears all."""
        for name, layer in self.layers.items():
            layer.carried = stacked.get(name) if stacked is not None else None
            layer.dropout = dropout

    @contextmanager
    def carrying(self, stacked: Mapping[str, Stacked] | None, dropout: RowDropout | None = None) -> Iterator[None]:
        """Installs what `stack` made while the block runs, None for nothing; afterwards nothing, whatever was raised.

        With gradient checkpointing the backward pass belongs inside: it calls the layers again.
        """
        self.set(stacked, dropout)
        try:
            yield
        finally:
            self.set(None)

    def set_spans(self, spans: Sequence[tuple[slice, Mapping[str, Stacked]]]) -> None:
        """Makes the next forwards carry adapters on spans of the batch's rows, written in place: for inference."""
        for name, layer in self.layers.items():
            layer.spans = tuple((rows, stacked[name]) for rows, stacked in spans if name in stacked)

    def with_norms(self, layers: Layers) -> dict[str, Factors]:
        """An adapter's factors with DoRA's norms for this model's weights."""
        return {name: self.layers[name].with_norms(factors) for name, factors in layers.items()}

    def shapes(self) -> dict[str, LayerShape]:
        """Each layer's shape by name."""
        return {name: layer.shape for name, layer in self.layers.items()}
