"""What a worker holds of the one base in its device's memory; it is let go before another base is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
BaseKey = tuple[str, str]
"""A base's name or path, and the precision that it is loaded in."""


class CurrentBase(Generic[T]):
    """A base, or something that holds one, for as long as jobs of the same base come."""

    def __init__(self) -> None:
        self.value: T | None = None
        self._key: BaseKey | None = None

    def get(self, key: BaseKey, load: Callable[[], T]) -> T:
        """The value for this base, from `load` if the last one was for another base; raises what `load` raises."""
        if self.value is None or self._key != key:
            self.value = None  # before loading: two bases need not fit in memory
            self.value, self._key = load(), key
        return self.value
