"""An arm's pictures: each is a function of its prompt and its seed, to rounding, whatever is sampled beside it.

Knows loaded bases and arms. Refuses to know subjects and scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.samplers import sampler_table
from lorafleet.numerics.sampling import Noise, sample
from lorafleet.numerics.text import Conditioning, split_prompt
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
    base = loaded.base
    side = side or base.resolution
    table = sampler_table(base, None, steps or base.default_steps)
    latent = (loaded.vae.config.latent_channels, side // base.vae_factor, side // base.vae_factor)
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32).repeat(ROWS, 1)
    texts = [arm.text(template) for template in templates]
    install(loaded, arm)
    try:
        encoded = {text: _encode(loaded, arm, text) for text in dict.fromkeys(texts)}
        empty = loaded.unconditional(ROWS)
        made = []
        for rows in _batches(len(texts)):
            noise = Noise([seeds[row] for row in rows], latent, loaded.device)
            positive = _joined([encoded[texts[row]] for row in rows])
            scale = base.default_guidance if guidance is None else guidance
            z = sample(loaded.predict, table, noise, positive, empty, time_ids, scale)
            made.append(loaded.decode(z[: len(dict.fromkeys(rows))]).cpu())
    finally:
        loaded.clear()
    return torch.cat(made) if made else torch.zeros(0, 3, side, side)


def install(loaded: LoadedBase, arm: Arm) -> None:
    """Makes the base's next calls carry the arm's adapter on every row."""
    for part, lora in loaded.lora.items():
        if arm.adapter is None:
            lora.set(None)
        else:
            layers = {name: factors.to(device=loaded.device) for name, factors in arm.adapter.layers(part).items()}
            lora.carry([[(layers, arm.scale)]])


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


def _joined(parts: Sequence[Conditioning]) -> Conditioning:
    return Conditioning(torch.cat([c.context for c in parts]), torch.cat([c.pooled for c in parts]))
