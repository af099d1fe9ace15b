"""Random numbers of one job: each draw is a function of (seed, purpose, index), never of what was drawn before.

So a job draws the same numbers whatever else is in its pack, and a resumed job needs no generator's state, only its
step.
"""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator for one purpose of one job, at one index of it: a micro-batch, an epoch, an image."""
    digest = hashlib.sha256("/".join((str(seed), purpose, *map(str, index))).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
