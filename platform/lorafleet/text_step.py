"""One call of both text encoders as a function of tensors alone, so that it can be recorded and replayed.

Prompts of many jobs share it, each with its own learned tokens in one table. Knows the base and row LoRA; refuses to
know jobs and captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import Calls, PlainCalls
from lorafleet.numerics.flat_factors import Layout
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning, Vectors
from lorafleet.targets import TEXT_PARTS
from lorafleet.util.to_device import to_device


@dataclass(frozen=True)
class TextStep:
    """Token ids, vectors and factors to conditioning."""

    layouts: tuple[tuple[str, Layout], ...]
    """Of the LoRA that all rows carry, by part of the base."""
    learned: bool
    """Whether there is a table of token vectors."""

    def __call__(
        self, inputs: Mapping[str, Tensor], *, base: LoadedBase, dropout: RowDropout | None = None
    ) -> tuple[Tensor, Tensor]:
        """Context and pooled vectors of the ids `ids 0` and `ids 1` [n, length].

        The other inputs are `vectors 0` and `vectors 1` [m, w], if tokens are learned, and for each part with a layout
        its factors [1, layout.size].
        """
        vectors = (inputs["vectors 0"], inputs["vectors 1"]) if self.learned else None
        dtype = base.unet.dtype  # the text encoders' too
        adapters = {part: own.stacked(base.lora[part], inputs[part], dtype=dtype) for part, own in self.layouts}
        with base.carrying(TEXT_PARTS, adapters, dropout):
            encoded = base.prompts.encode((inputs["ids 0"], inputs["ids 1"]), vectors)
        return encoded.context, encoded.pooled


def encode_ids(
    base: LoadedBase,
    ids: Sequence[tuple[Tensor, Tensor]],
    vectors: Vectors | None = None,
    factors: Mapping[str, tuple[Layout, Tensor]] | None = None,
    dropout: RowDropout | None = None,
    calls: Calls | None = None,
    most: int = 0,
) -> Conditioning:
    """Conditioning of token ids, a pair of [k, length] for each prompt; differentiable in vectors and factors.

    `factors` are a layout and a flat vector [1, size] by part of the base, `calls` how the encoders are called, and
    `most` how many prompts there may be at other times. Where calls are padded, rows repeat the first prompt's, and
    vectors are followed by zeros.
    """
    calls = PlainCalls() if calls is None or dropout is not None else calls  # dropout draws from its own generators
    step = TextStep(tuple((part, layout) for part, (layout, _) in (factors or {}).items()), vectors is not None)
    both = [torch.cat([own[i] for own in ids]) for i in (0, 1)]
    count = len(both[0])
    padding = calls.padded(count, most) - count
    padded = [torch.cat([own, own[:1].expand(padding, -1)]) for own in both]
    inputs = {f"ids {i}": to_device(own, base.device) for i, own in enumerate(padded)}
    variables = {part: flat for part, (_, flat) in (factors or {}).items()}
    for i, table in enumerate(vectors or ()):
        variables[f"vectors {i}"] = F.pad(table, (0, 0, 0, calls.padded(len(table)) - len(table)))
    key = (step, *[(name, tensor.shape) for name, tensor in {**inputs, **variables}.items()])
    function = partial(step, base=base, dropout=dropout)
    context, pooled = calls.differentiable(key, function, inputs, variables)
    return Conditioning(context[:count], pooled[:count])
