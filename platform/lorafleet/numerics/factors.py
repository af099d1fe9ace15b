"""An adapter's tensors for one layer, and the stacking of many rows' adapters into one tensor for each layer.

LoRA (Hu et al. 2021, eq. 3) adds s B A to a weight W. DoRA (Liu et al. 2024, eq. 5) replaces W by
m (W + s B A) / |W + s B A|, norms over each output's row and taken as constants by the gradient (their section 4.3).
The norms come from the low-rank identity

    |w + s b A|^2 = |w|^2 + 2 s b (A w^T) + s^2 b (A A^T) b^T

so B A is never formed, and one triple of vectors gives them for every scale. Knows nothing of models and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer of one adapter: `A` [r, in] and `B` [out, r], and for DoRA the magnitude `m` [out].

    `norms` [3, out] are |w|^2, b (A w^T) and b (A A^T) b^T, which `with_norms` works out. All may have one dimension
    more in front, for the groups of a pack.
    """

    A: Tensor
    B: Tensor
    m: Tensor | None = None
    norms: Tensor | None = None

    def to(self, **options: object) -> Factors:
        """Copies on a device or in a dtype, as `Tensor.to` takes them; norms and magnitude stay fp32."""
        device = {key: value for key, value in options.items() if key == "device"}
        m = None if self.m is None else self.m.to(**device)  # type: ignore[call-overload]
        norms = None if self.norms is None else self.norms.to(**device)  # type: ignore[call-overload]
        return Factors(self.A.to(**options), self.B.to(**options), m, norms)  # type: ignore[call-overload]

    def copied(self) -> Factors:
        """The same numbers in memory of their own, without a gradient."""
        return Factors(*(None if t is None else t.detach().clone() for t in (self.A, self.B, self.m, self.norms)))  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        """All tensors that are not None."""
        return [t for t in (self.A, self.B, self.m, self.norms) if t is not None]

    @torch.no_grad()
    def with_norms(self, W: Tensor, own: Tensor | None = None) -> Factors:
        """DoRA's norms worked out for the weight `W` [out, in], on its device; unchanged without a magnitude.

        `own` is |w|^2 [out], if the caller knows it already.
        """
        if self.m is None:
            return self
        A, B = (t.to(W.device, self.m.dtype) for t in (self.A, self.B))
        WA = (
            W @ A.to(W.dtype).mT
        )  # W in its own precision: to copy all of a model's weights takes longer than its products
        cross = (B * WA.to(B.dtype)).sum(dim=-1)
        square = ((B @ (A @ A.mT)) * B).sum(dim=-1)
        own = (W.to(B.dtype).square().sum(dim=-1) if own is None else own).expand_as(cross)
        return Factors(self.A, self.B, self.m, torch.stack([own, cross, square], dim=-2).to(self.m.device))

    def gain(self, scale: float | Tensor) -> Tensor:
        """DoRA's m / |w + s b A| [out] at a scale; for groups the scale is one number, or a tensor [groups, 1]."""
        if self.m is None or self.norms is None:
            raise ValueError("no magnitude, or a magnitude without norms; call with_norms first")
        n0, n1, n2 = self.norms.unbind(dim=-2)
        return self.m / (n0 + 2 * scale * n1 + scale**2 * n2).sqrt()

    def parts(self, scale: float | Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """A, B and the gain [out] on W x of this adapter at a scale, so that y = gain W x + B A x.

        The scale of DoRA goes inside the norm, as in PEFT. For groups it is one number, or a tensor [groups, 1].
        """
        if self.m is None:
            if isinstance(scale, Tensor):
                return self.A, self.B * scale[..., None], None
            return self.A, (self.B * scale if scale != 1.0 else self.B), None
        gain = self.gain(scale)
        return self.A, self.B * (scale * gain)[..., None].to(self.B), gain


@dataclass(frozen=True, eq=False)
class Stacked:
    """One layer for all groups of rows: `A` [g, R, in], `B` [g, out, R] and, if any has DoRA, the gain [g, out]."""

    A: Tensor
    B: Tensor
    gain: Tensor | None = None


Layers = Mapping[str, Factors]
"""One adapter's factors on one model by layer name, without the layers that it does not change."""
Group = Sequence[tuple[Layers, float]]
"""The adapters of one group of rows, each with its scale (alpha / rank times a request's own)."""


def stack(groups: Sequence[Group]) -> dict[str, Stacked]:
    """Stacks groups layer by layer; a layer that no group adapts is missing. Differentiable in the factors.

    Adapters of a group are concatenated along the rank, lower ranks padded with zeros. Several in a
    group apply one after another as in PEFT, so that DoRA's gain acts on what the adapters before it added: their order
    matters. One at scale 0 is left out, which is the base to the bit; PEFT leaves DoRA's m / |w| behind.
    """
    groups = [[(layers, scale) for layers, scale in group if scale] for group in groups]
    names = dict.fromkeys(name for group in groups for layers, _ in group for name in layers)
    return {name: _layer([[(ls[name], s) for ls, s in group if name in ls] for group in groups]) for name in names}


def _layer(groups: Sequence[Sequence[tuple[Factors, float]]]) -> Stacked:
    parts = [_composed([factors.parts(scale) for factors, scale in group]) for group in groups]
    A, B, _ = next(part for part in parts if part is not None)
    n_in, n_out, rank = A.shape[1], B.shape[0], max(part[0].shape[0] for part in parts if part is not None)
    As, Bs, gains = [], [], []
    for part in parts:
        a, b, gain = part if part is not None else (A.new_zeros(0, n_in), B.new_zeros(n_out, 0), None)
        pad = rank - a.shape[0]
        As.append(torch.cat([a, A.new_zeros(pad, n_in)]) if pad else a)
        Bs.append(torch.cat([b, B.new_zeros(n_out, pad)], dim=1) if pad else b)
        gains.append(gain)
    if all(gain is None for gain in gains):
        return Stacked(_together(As), _together(Bs))
    ones = torch.ones(n_out, device=B.device)
    return Stacked(_together(As), _together(Bs), _together([ones if gain is None else gain for gain in gains]))


def _composed(parts: list[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """One group's adapters as one: ranks side by side, each gain on all that came before it."""
    if not parts:
        return None
    total: Tensor | None = None
    Bs: list[Tensor] = []
    for _, B, gain in parts:
        if gain is not None:
            total = gain if total is None else total * gain
            Bs = [before * gain[:, None].to(before) for before in Bs]
        Bs.append(B)
    if len(parts) == 1:
        return parts[0]
    return torch.cat([A for A, _, _ in parts]), torch.cat(Bs, dim=1), total


def _together(tensors: list[Tensor]) -> Tensor:
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
