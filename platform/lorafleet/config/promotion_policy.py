"""How a submission's new versions become champions of their names."""

from __future__ import annotations

from typing import Literal

Promotion = Literal["first", "best", "manual", "always"]
"""`first`: where the name has no champion yet. `best`: also over one with a lower score of the same metric. `manual`:
never. `always`: over any that a submission made champion. Never over one that a person chose."""
