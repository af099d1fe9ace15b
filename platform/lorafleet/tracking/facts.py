"""What a version's tags say to programs: where its bundle was put, its triggers, its base, its card's digest.

One tag holds all of it as JSON, so that people see the few tags that are theirs.
"""

from __future__ import annotations

import json
from typing import Any

FACTS = "lorafleet.bundle"
DIGEST = "card_sha256"
"""The fact that is the sha256 of the bundle's card."""


def facts_of(version: Any) -> dict[str, Any]:
    """The facts of a version; one that also has a tag of its own was corrected there, or is from before."""
    return {**json.loads(version.tags.get(FACTS, "{}")), **version.tags}
