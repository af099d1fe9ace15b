"""Samplers as A1111, ComfyUI, diffusers and Replicate call them. Knows names; refuses to know how samplers work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

A1111_SAMPLERS = {
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "dpmpp-2m": "DPM++ 2M",
    "dpmpp-2m-karras": "DPM++ 2M Karras",
    "ddim": "DDIM",
    "lcm": "LCM",
    "tcd": "TCD",
    "edm-euler": "EDM Euler",
    "edm-dpmpp-2m": "EDM DPM++ 2M",
}
"""Ours, and what an image's `parameters` text calls them."""
SPELLINGS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("euler", "edm-euler"): ("Euler", "K_EULER", "EulerDiscreteScheduler", "EDMEulerScheduler", "EDM Euler"),
    ("euler-ancestral",): ("Euler a", "Euler ancestral", "K_EULER_ANCESTRAL", "EulerAncestralDiscreteScheduler"),
    ("dpmpp-2m", "edm-dpmpp-2m"): (
        "DPM++ 2M", "DPMPP 2M", "DPMSolverMultistepScheduler", "EDM DPM++ 2M", "EDMDPMSolverMultistepScheduler",
    ),
    ("dpmpp-2m-karras", "edm-dpmpp-2m"): ("DPM++ 2M Karras", "DPMPP 2M Karras", "KarrasDPM"),
    ("ddim",): ("DDIM", "DDIMScheduler"),
    ("lcm",): ("LCM", "LCMScheduler"),
    ("tcd",): ("TCD", "TCDScheduler"),
}  # fmt: skip
"""What others call a sampler. Of ours the first that the base has is meant; an EDM base's has Karras' steps always."""


def sampler_named(name: str, samplers: Sequence[str]) -> str:
    """Which of a base's `samplers` a name means, however it is spelt; the name itself if it means none of them."""
    if name in A1111_SAMPLERS:  # whoever writes our names means just that one
        return name
    for ours, theirs in SPELLINGS.items():
        if _plain(name) in map(_plain, theirs):
            return next((each for each in ours if each in samplers), name)
    return name


def is_known(name: str) -> bool:
    """Whether a name means a sampler of ours, whether or not a base has it."""
    return name in A1111_SAMPLERS or _plain(name) in {_plain(each) for theirs in SPELLINGS.values() for each in theirs}


def other_names(sampler: str) -> Iterator[str]:
    """What else a sampler of ours is called."""
    yield sampler
    for ours, theirs in SPELLINGS.items():
        if sampler in ours:
            yield from (name for name in theirs if name != A1111_SAMPLERS.get(sampler))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]|(discrete)?scheduler$|discrete$", "", name.lower())
