"""Names to adapter versions for a server: what the registry said is kept for a while, and asked for once at a time.

An alias is asked for again after `alias_ttl` seconds, so that promoting a version reaches the next request; a number
always means the same version. Serving outlives the registry: while it does not answer, what it last said holds for
another `stale_for` seconds. Knows the registry's port; refuses to know bundles, engines and event loops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from lorafleet.bundle.ports import CHAMPION, AdapterRegistry, AdapterVersion
from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet.util.counting import increased

KNOWN_NAMES = 10_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Freshness:
    """For how many seconds an answer of the registry holds."""

    alias_ttl: float = 5.0
    number_ttl: float = 3600.0
    refusal_ttl: float = 1.0
    """Of an error: long enough that a crowd asks once, too short to be noticed."""
    stale_for: float = 600.0
    """Beyond its time, while the registry does not answer."""

    def ttl(self, wanted: str) -> float:
        """Of a version found by what was asked for, a number or an alias."""
        return self.number_ttl if wanted.isdecimal() else self.alias_ttl


@dataclass(frozen=True)
class Answer:
    """What the registry last said about a name, and until when that is not asked again."""

    adapter: AdapterVersion | None
    problem: LorafleetError | None
    said: float
    until: float
    stale: bool = False


def after(
    outcome: AdapterVersion | LorafleetError, last: Answer | None, now: float, wanted: str, how: Freshness
) -> Answer:
    """The answer that holds once the registry has said `outcome` at `now`, given the `last` one."""
    if isinstance(outcome, AdapterVersion):
        return Answer(outcome, None, now, now + how.ttl(wanted))
    known = last is not None and last.adapter is not None and now - last.said <= how.ttl(wanted) + how.stale_for
    if known and isinstance(outcome, UnreachableError):
        assert last is not None
        return replace(last, until=now + how.alias_ttl, stale=True)
    return Answer(None, outcome, now, now + how.refusal_ttl)


@dataclass(frozen=True)
class ResolverStats:
    """What was asked of a resolver since it was made."""

    hits: int = 0
    """Answered from what was known, or by a question under way."""
    misses: int = 0
    """Asked of the registry."""
    stale: int = 0
    """Answered from what was known although its time was over, because the registry did not answer."""
    failures: int = 0
    """Answered with an error."""


class Resolver:
    """Finds adapter versions by name, one question at a time for each name however many ask. Thread-safe."""

    def __init__(
        self,
        registry: AdapterRegistry,
        freshness: Freshness = Freshness(),
        clock: Callable[[], float] = time.monotonic,
        threads: int = 8,
    ) -> None:
        self.registry, self.freshness = registry, freshness
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="adapter-resolver")
        self._lock = threading.Lock()  # guards the three below
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._asking: dict[tuple[str, str], Future[AdapterVersion]] = {}
        self._stats = ResolverStats()

    def find(self, name: str, version: str | None = None) -> Future[AdapterVersion]:
        """The version asked for (a number, an alias, None for `champion`), its bundle on this machine, now or soon.

        The future is shared: do not cancel it. It holds what the registry raises, as NotFoundError.
        """
        key = (name, version or CHAMPION)
        with self._lock:
            answer, asking = self._answers.get(key), self._asking.get(key)
            if asking is None and answer is not None and self._clock() < answer.until:
                asking = self._told(answer)
            if asking is not None:
                self._count(hits=1)
                return asking
            self._count(misses=1)
            asking = self._asking[key] = self._pool.submit(self._ask, key)
            return asking

    def forget(self, name: str, version: str | None = None) -> None:
        """Makes the next `find` ask the registry, which looks at the bundle again."""
        with self._lock:
            self._answers.pop((name, version or CHAMPION), None)

    def stats(self) -> ResolverStats:
        """The counts so far."""
        with self._lock:
            return self._stats

    def close(self) -> None:
        """Lets questions under way end; nothing more can be found."""
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, key: tuple[str, str]) -> AdapterVersion:
        try:
            outcome = self._outcome(key)
            with self._lock:
                answer = after(outcome, self._answers.get(key), self._clock(), key[1], self.freshness)
                self._answers[key] = answer
                self._answers.move_to_end(key)
                if len(self._answers) > KNOWN_NAMES:
                    self._answers.popitem(last=False)
                told = self._told(answer)
            if answer.stale:
                log.warning("%s; adapter %s@%s is served as last known", outcome, *key)
        finally:
            with self._lock:
                del self._asking[key]
        return told.result()

    def _outcome(self, key: tuple[str, str]) -> AdapterVersion | LorafleetError:
        try:
            return self.registry.resolve(*key)
        except LorafleetError as problem:
            return problem

    def _told(self, answer: Answer) -> Future[AdapterVersion]:
        """An answer as a future; with a copy of its error, because raising one adds to its traceback."""
        told: Future[AdapterVersion] = Future()
        if answer.problem is not None:
            self._count(failures=1)
            told.set_exception(type(answer.problem)(*answer.problem.args))
        elif answer.adapter is not None:
            self._count(stale=int(answer.stale))
            told.set_result(answer.adapter)
        return told

    def _count(self, **more: int) -> None:
        self._stats = increased(self._stats, **more)
