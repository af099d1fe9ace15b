"""Adafactor over matrices that lie in flat parameters. Knows where a matrix lies; refuses to know what it is.

Adafactor keeps the second moment of a matrix as one row and one column, and scales a step by the matrix's own size
(Shazeer & Stern 2018), so that one flat vector of many matrices would be another algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lorafleet_jobs.train.learned import ParameterSet


class MatrixAdafactor(torch.optim.Adafactor):
    """PyTorch's Adafactor on the matrices inside flat parameters, one parameter group for each set.

    The matrices are views: they share the flat parameter's memory, so that memory must be written in place, never
    replaced. Gradients are read from the flat parameter at each step; where it has none, nothing moves.
    """

    def __init__(self, sets: Sequence[ParameterSet], rates: Sequence[float], **options: Any) -> None:
        self._views = [
            (flat, _matrices(flat, shapes))
            for each in sets
            for flat, shapes in zip(each.parameters, each.shapes, strict=True)
        ]
        matrices = {id(flat): found for flat, found in self._views}
        groups = [
            {"params": [matrix for flat in each.parameters for matrix in matrices[id(flat)]], "lr": rate}
            for each, rate in zip(sets, rates, strict=True)
        ]
        super().__init__(groups, foreach=True, **options)
        self.register_step_pre_hook(lambda *_: self._read_gradients())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of the flat parameters and of their matrices."""
        super().zero_grad(set_to_none)
        for flat, _ in self._views:
            if set_to_none:
                flat.grad = None
            elif flat.grad is not None:
                flat.grad.zero_()

    def _read_gradients(self) -> None:
        for flat, matrices in self._views:
            parts = _split(flat.grad, [m.shape for m in matrices]) if flat.grad is not None else [None] * len(matrices)
            for matrix, part in zip(matrices, parts, strict=True):
                matrix.grad = part


def _matrices(flat: nn.Parameter, shapes: Sequence[torch.Size]) -> list[nn.Parameter]:
    return [nn.Parameter(part) for part in _split(flat.detach(), shapes)]


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of the matrices that lie one after another in `flat`."""
    parts = flat.reshape(-1).split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
