"""The ranks of a data-parallel job: each takes its share of a step's micro-batches, then all sum up their gradients.

Batches, noise and first weights are functions of the seed, and the sums are the same on all ranks, so all of them hold
the same parameters at every step, and the job learns what it learns on one rank, to the order of additions. Knows
torch.distributed; refuses to know who started the processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks(Protocol):
    """The ranks of one job, as one of them sees them."""

    def is_mine(self, micro: int) -> bool:
        """Whether the micro-batch of this index in a step belongs to this rank."""

    def all_reduce(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replaces each rank's gradients by the sum over all ranks; returns the sum of the losses."""

    def abort(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes the step of all other ranks, which wait for this one, raise NonFiniteError."""


@dataclass(frozen=True)
class SingleRank:
    """A job in one process."""

    def is_mine(self, micro: int) -> bool:
        """Every micro-batch is."""
        return True

    def all_reduce(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Leaves the gradients and the loss as they are."""
        return loss

    def abort(self, parameters: Sequence[nn.Parameter]) -> None:
        """There is no other rank to tell."""


@dataclass(frozen=True)
class ProcessGroup:
    """torch.distributed's default process group."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> ProcessGroup:
        """The process group that has been started in this process."""
        return cls(dist.get_rank(), dist.get_world_size())

    def is_mine(self, micro: int) -> bool:
        """Micro-batches are dealt out in the order of the ranks."""
        return micro % self.size == self.rank

    def all_reduce(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replaces each rank's gradients by the sum over all ranks; returns the sum of the losses. One network call.

        `parameters` are all that the job has, frozen ones too. A loss that is not a number, by which a rank says that
        it failed, makes the sum so on all ranks.
        """
        device = parameters[0].device
        own = loss.to(device, parameters[0].dtype)[None]
        flat = torch.cat([own, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters)])
        dist.all_reduce(flat)
        pieces = flat[1:].split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            if parameter.requires_grad:
                parameter.grad = piece.view_as(parameter)
        return flat[0].to(loss.dtype)

    def abort(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes the step of all other ranks, which wait for this one, raise NonFiniteError."""
        self.all_reduce(parameters, torch.tensor(math.nan, dtype=torch.float64))
