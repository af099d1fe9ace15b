"""Where one model's factors lie in one flat vector, so that a job, its optimizer and a captured step see one tensor.

Jobs of other ranks, other layers, or without DoRA share one layout by zeros: a zero rank adds nothing, and a group
without DoRA has a gain of 1. Knows tensors and row LoRA; refuses to know jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from lorafleet.numerics.factors import Factors, Stacked
from lorafleet.numerics.rowlora import RowLoRA


@dataclass(frozen=True)
class Layout:
    """Layer by layer A [r, in], B [out, r] and, with DoRA, the magnitude m [out]."""

    layers: tuple[tuple[str, int, int], ...]
    """(name, in, out)."""
    rank: int
    dora: bool = False

    @classmethod
    def covering(cls, layouts: Iterable[Layout]) -> Layout:
        """The smallest layout that has room for each of these: all layers, the highest rank, DoRA if one has it."""
        every = list(layouts)
        layers = dict.fromkeys(layer for layout in every for layer in layout.layers)
        return cls(tuple(layers), max(each.rank for each in every), any(each.dora for each in every))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.layers, self.rank, self.dora))

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the tensors, in their order."""
        shapes = []
        for _, n_in, n_out in self.layers:
            shapes += [torch.Size((self.rank, n_in)), torch.Size((n_out, self.rank))]
            shapes += [torch.Size((n_out,))] if self.dora else []
        return shapes

    @cached_property
    def size(self) -> int:
        """Numbers in the flat vector."""
        return sum(shape.numel() for shape in self.shapes)

    def factors(self, flat: Tensor) -> dict[str, Factors]:
        """By layer name, as differentiable views of a flat vector [size], or of a stack [groups, size] of such."""
        parts = flat.split([shape.numel() for shape in self.shapes], dim=-1)
        tensors = [t.view(*flat.shape[:-1], *s) for t, s in zip(parts, self.shapes, strict=True)]
        each = 3 if self.dora else 2
        return {name: Factors(*tensors[i * each : (i + 1) * each]) for i, (name, *_) in enumerate(self.layers)}

    def embed(self, inner: Layout, flat: Tensor, scale: float = 1.0) -> Tensor:
        """A flat vector of the layout `inner`, which this one covers, in this layout: zeros where it is wider.

        Every B is multiplied by `scale`.
        """
        flat = _scaled(inner, flat, scale)
        if inner == self:
            return flat
        return flat.new_zeros(self.size).index_copy(0, _positions(self, inner, flat.device), flat)

    def extract(self, inner: Layout, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """The gradient of what `embed` was given, from that of what it returned."""
        if inner != self:
            gradient = gradient.index_select(0, _positions(self, inner, gradient.device))
        return _scaled(inner, gradient, scale)

    def magnitudes(self, inner: Layout | None) -> list[bool]:
        """For each layer, whether a job of the layout `inner` has a magnitude there."""
        own = set(inner.layers) if inner is not None and inner.dora else set()
        return [layer in own for layer in self.layers]

    def stacked(
        self, lora: RowLoRA, flat: Tensor, dora: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> dict[str, Stacked]:
        """The layers' factors for `flat` [groups, size], as row LoRA carries them; differentiable in `flat`.

        `dora` [groups, layers] says which groups have a magnitude where, None that all have. All factors are cast to
        `dtype` at once.
        """
        cast = self.factors(flat if dtype is None else flat.to(dtype))
        if not self.dora:
            return {name: Stacked(f.A, f.B) for name, f in cast.items()}
        layers = {}
        for i, (name, f) in enumerate(lora.with_norms(self.factors(flat)).items()):
            gain = f.gain(1.0) if dora is None else torch.where(dora[:, i, None], f.gain(1.0), 1.0)
            layers[name] = Stacked(cast[name].A, (f.B * gain[..., None]).to(cast[name].B.dtype), gain)
        return layers


def _scaled(layout: Layout, flat: Tensor, scale: float) -> Tensor:
    return flat if scale == 1.0 else flat * torch.where(_is_B(layout, flat.device), scale, 1.0).to(flat.dtype)


@lru_cache(maxsize=64)
def _positions(outer: Layout, inner: Layout, device: torch.device) -> Tensor:
    """Where the numbers of `inner`, in their order, lie in `outer`."""
    own, parts = outer.factors(torch.arange(outer.size)), []
    for name, *_ in inner.layers:
        factors = own[name]
        parts += [factors.A[: inner.rank].flatten(), factors.B[:, : inner.rank].flatten()]
        parts += [factors.m] if inner.dora and factors.m is not None else []
    return torch.cat(parts).to(device)


@lru_cache(maxsize=64)
def _is_B(layout: Layout, device: torch.device) -> Tensor:  # noqa: N802  the paper's B
    """Which numbers of a layout belong to a B."""
    mask = torch.zeros(layout.size, dtype=torch.bool)
    for factors in layout.factors(mask).values():
        factors.B.fill_(True)
    return mask.to(device)
