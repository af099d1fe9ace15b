"""A fault that somebody could make, and the tests that should notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault: a file whose text `old`, which stands there once, is replaced by `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    """Files and test ids, as few as are likely to notice."""
    equivalent: str = ""
    """Why the fault changes nothing that a test could notice, if that is so."""
