"""Long work in pieces, so that a pack goes on stepping between them; what needs no device is done by a thread.

The work is a generator. It yields what it waits for, or None between two pieces of its own, and is resumed by whoever
owns the device. Knows waiting; refuses to know the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Pieces: TypeAlias = Generator[Future[Any] | None, None, T]
"""Work whose result, never None, it returns at its end."""


def awaited(future: Future[T]) -> Pieces[T]:
    """The result of a future; raises what it raised."""
    while not future.done():
        yield future
    return future.result()


class InPieces(Generic[T]):
    """Work under way, and the one thread that does what can be done beside the owner's steps."""

    def __init__(self, start: Callable[[Executor], Pieces[T]]) -> None:
        """`start` is given the thread; nothing is done yet."""
        self._thread = ThreadPoolExecutor(1, "prepare")
        self._pieces = start(self._thread)

    def advance(self, seconds: float = 0.0) -> T | None:
        """Does the pieces that can be done now, until so many seconds have passed; None before the work's end.

        Raises what the work raises. With its end, however it ends, the thread ends too.
        """
        until = time.monotonic() + seconds
        while True:
            pending, result = self._next()
            if result is not None or pending is not None or time.monotonic() >= until:
                return result

    def finish(self) -> T:
        """Does all the rest and returns the result. Raises what the work raises."""
        while True:
            pending, result = self._next()
            if result is not None:
                return result
            wait([pending] if pending is not None else [])

    def close(self) -> None:
        """Gives the work up, once the thread has done what it is at."""
        self._pieces.close()
        self._thread.shutdown(cancel_futures=True)

    def _next(self) -> tuple[Future[Any] | None, T | None]:
        """Does a piece: what the work waits for, and its result if this was the last."""
        try:
            return next(self._pieces), None
        except StopIteration as end:
            self.close()
            return None, end.value
        except BaseException:
            self.close()
            raise
