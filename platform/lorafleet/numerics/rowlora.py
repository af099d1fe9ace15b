"""Row LoRA: one linear layer, many adapters, each group of batch rows with its own.

    y = W x + B_g (A_g x)            g: the group that a batch row belongs to

The same layer trains (a group is a job) and serves (a group is an image; its guidance pair shares the factors).
Several adapters in one group are concatenated along the rank, lower ranks are padded with zeros, and a group without an
adapter has zero factors, so it adds exactly 0. Knows nothing of files, requests and jobs. LoRA: Hu et al. 2021, eq. 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TARGETS = {"attn": ("to_q", "to_k", "to_v", "to_out.0")}


@dataclass(frozen=True)
class Factors:
    """One layer's low-rank pair: `A` [r, in] and `B` [out, r], the LoRA scale not folded in."""

    A: Tensor
    B: Tensor


class RowLoRALinear(nn.Module):
    """A frozen linear layer plus one low-rank pair for each group of rows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.A: Tensor | None = None  # [groups, R, in]
        self.B: Tensor | None = None  # [groups, out, R], scale folded in

    def forward(self, x: Tensor) -> Tensor:
        """`x` [n, ..., in] with n a multiple of the groups; the rows of one group are neighbours."""
        y: Tensor = self.base(x)
        if self.A is None or self.B is None:
            return y
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        low = x.reshape(len(A), -1, x.shape[-1]) @ A.mT
        return y + (low @ B.mT).reshape(y.shape)


class RowLoRA:
    """All row-LoRA layers of one model, and what each group of the next forward carries.

    Wraps the model's linear layers whose names end in one of `suffixes`, in place.
    """

    def __init__(self, model: nn.Module, suffixes: Sequence[str]) -> None:
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(tuple(f".{suffix}" for suffix in suffixes))
        ]
        self.layers: dict[str, RowLoRALinear] = {}
        for name, module in found:
            layer = RowLoRALinear(module)
            model.set_submodule(name, layer)
            self.layers[name] = layer

    def set(self, groups: Mapping[str, tuple[Tensor, Tensor]] | None) -> None:
        """Installs stacked factors by layer name, `A` [groups, R, in] and `B` [groups, out, R]; None clears all."""
        for name, layer in self.layers.items():
            layer.A, layer.B = groups[name] if groups is not None else (None, None)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each layer by name."""
        return {name: (layer.base.in_features, layer.base.out_features) for name, layer in self.layers.items()}


def new_factors(shapes: Mapping[str, tuple[int, int]], rank: int, generator: torch.Generator) -> dict[str, Factors]:
    """Fresh trainable factors: A ~ N(0, 1/r), B = 0 ("gaussian" in PEFT), fp32, drawn in the layers' order."""
    factors = {}
    for name, (n_in, n_out) in shapes.items():
        A = torch.randn(rank, n_in, generator=generator) / rank
        factors[name] = Factors(A.requires_grad_(), torch.zeros(n_out, rank).requires_grad_())
    return factors


def stack(
    groups: Sequence[Sequence[tuple[Mapping[str, Factors], float]]], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Stacks groups of (factors, scale) into the tensors that `RowLoRA.set` takes; None if no group has an adapter.

    The scale (alpha / rank times a request's own weight) is folded into B. Differentiable with respect to the factors.
    """
    if not any(groups):
        return None
    rank = max(sum(next(iter(factors.values())).A.shape[0] for factors, _ in group) for group in groups)
    first = next(group for group in groups if group)[0][0]
    like = next(iter(first.values())).A
    stacked = {}
    for name, (n_in, n_out) in shapes.items():
        As, Bs = [], []
        for group in groups:
            A = [factors[name].A for factors, _ in group]
            B = [factors[name].B * scale for factors, scale in group]
            pad = rank - sum(a.shape[0] for a in A)
            As.append(torch.cat([*A, like.new_zeros(pad, n_in)], dim=0))
            Bs.append(torch.cat([*B, like.new_zeros(n_out, pad)], dim=1))
        stacked[name] = (torch.stack(As), torch.stack(Bs))
    return stacked
