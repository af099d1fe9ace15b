"""Random numbers of one job: each draw is a function of (seed, purpose, place), never of what was drawn before.

So a job draws the same whatever else is in its pack, and a resumed job needs no generator's state: its step is enough.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU generator for one purpose of one job, at one place (a step, an epoch, an image) of it."""
    digest = hashlib.sha256("/".join((str(seed), purpose, *map(str, place))).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
