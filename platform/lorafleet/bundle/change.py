"""Whether an adapter makes other pictures than it would untrained: a pure function of the metrics on its card.

Knows distances between pictures and the words for them. Refuses to know how pictures are made, and who is told.
"""

from __future__ import annotations

from collections.abc import Mapping

FROM_BASE = "change/from_base"
"""Metric: how far validation pictures are from the base's, whose prompts name the class alone."""
FROM_WORDS = "change/from_words_only"
"""Metric: how far they are from those with the learned words alone."""
FROM_UNTRAINED = "change/from_untrained"
"""Metric: how far they are from those of the same prompts and seeds before the first step."""
VISIBLE = 2.0
"""Mean absolute difference of pixels, in levels of 255, below which nobody sees one."""
UNCHANGED = "its pictures are as before training, so it has learned nothing visible"
REMEDY = "train with more steps or a higher learning_rate"


def is_unchanged(metrics: Mapping[str, float]) -> bool:
    """Whether an adapter with these metrics has learned nothing that is visible; False where that was not measured."""
    return metrics.get(FROM_UNTRAINED, VISIBLE) < VISIBLE


def unchanged_note(metrics: Mapping[str, float]) -> str:
    """A sentence for whoever trained an unchanged adapter, with the figure and the remedy; "" for any other."""
    if not is_unchanged(metrics):
        return ""
    found = f"{metrics[FROM_UNTRAINED]:.2g} of 255 on average, and {VISIBLE:g} is the least that is visible"
    return f"{UNCHANGED} ({found}); {REMEDY}"
