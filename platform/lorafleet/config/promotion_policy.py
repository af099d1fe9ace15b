"""How a submission's new versions become champions of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Promotion = Literal["first", "best", "manual", "always"]
"""`first`: where the name has no champion yet. `best`: also over one with a lower score of the same metric. `manual`:
never. `always`: over any that a submission made champion. Never over one that a person chose."""


@dataclass(frozen=True)
class Score:
    """What a version was worth, more being better."""

    metric: str
    value: float
