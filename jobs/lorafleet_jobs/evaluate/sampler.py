"""An arm's pictures: each is a function of its prompt and its seed, to rounding, whatever is sampled beside it.

Knows loaded bases and arms. Refuses to know subjects and scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Stacked, stack
from lorafleet.numerics.text import Conditioning, split_prompt
from lorafleet.pictures import sample_latents
from lorafleet.targets import PARTS
from lorafleet_jobs.evaluate.arms import Arm

ROWS = 8
"""Pictures of one batch. The last batch is filled up, so that all have one shape, and arms compare call by call."""


@torch.no_grad()
def sample_arm(
    loaded: LoadedBase,
    arm: Arm,
    templates: Sequence[str],
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: float | None = None,
    side: int | None = None,
) -> Tensor:
    """Pictures [n, 3, side, side] in [0, 1] on the CPU, one for each template ("a photo of {subject}") and its seed.

    Steps, guidance and side are the base's own by default. Leaves the base without adapters.
    """
    side = side or loaded.base.resolution
    texts = [arm.text(template) for template in templates]
    pictures = [torch.zeros(0, 3, side, side)]
    with loaded.carrying(PARTS, _stacked(loaded, arm)):
        encoded = {text: _encode(loaded, arm, text) for text in dict.fromkeys(texts)}
        empty = loaded.unconditional(ROWS)
        for rows in _batches(len(texts)):
            positive = Conditioning.cat([encoded[texts[row]] for row in rows])
            batch_seeds = [seeds[row] for row in rows]
            z = sample_latents(loaded, positive, empty, batch_seeds, side=side, steps=steps, guidance=guidance)
            pictures.append(loaded.decode(z[: len(dict.fromkeys(rows))]).cpu())
    return torch.cat(pictures)


def _stacked(loaded: LoadedBase, arm: Arm) -> dict[str, Mapping[str, Stacked]]:
    """The arm's adapter by part, for every row of a batch; empty for the base alone."""
    if arm.adapter is None:
        return {}
    stacked: dict[str, Mapping[str, Stacked]] = {}
    for part in PARTS:
        layers = {name: factors.to(device=loaded.device) for name, factors in arm.adapter.layers(part).items()}
        stacked[part] = stack([[(layers, arm.scale)]])
    return stacked


def _encode(loaded: LoadedBase, arm: Arm, text: str) -> Conditioning:
    adapter = arm.adapter
    ids = loaded.prompts.token_ids(split_prompt(text, {} if adapter is None else adapter.trigger_table()))
    vectors = None if adapter is None or adapter.vectors is None else adapter.vectors
    if vectors is not None:
        vectors = (vectors[0].to(loaded.device), vectors[1].to(loaded.device))
    return loaded.prompts.encode(ids, vectors)


def _batches(count: int) -> list[list[int]]:
    """Row numbers in batches of ROWS, the last one filled up with its first row."""
    starts = range(0, count, ROWS)
    batches = [list(range(start, min(start + ROWS, count))) for start in starts]
    return [batch + [batch[0]] * (ROWS - len(batch)) for batch in batches]
