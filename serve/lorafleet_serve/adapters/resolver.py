"""From names to adapter versions, for a server: the registry's answers are cached, and each name is asked for once.

An alias is asked for again after `alias_ttl` seconds, so that promoting a version reaches later requests; a number
means the same version until that is removed, of which `drop` is told. Serving outlives the registry: while it does not
answer, its last answers are used for another `stale_for` seconds. Knows the registry's port; refuses to know bundles,
engines and event loops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from cachetools import LRUCache

from lorafleet.bundle.ports import CHAMPION, AdapterRegistry, AdapterVersion
from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet.util.counting import increased

MAX_ANSWERS = 10_000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Freshness:
    """For how many seconds an answer of the registry is used."""

    alias_ttl: float = 5.0
    number_ttl: float = 3600.0
    refusal_ttl: float = 1.0
    """Of an error: long enough that many requests at once ask only once, too short to be noticed."""
    stale_for: float = 600.0
    """How much longer an answer is used while the registry does not answer."""

    def ttl(self, wanted: str) -> float:
        """Of an answer about `wanted`, a version number or an alias."""
        return self.number_ttl if wanted.isdecimal() else self.alias_ttl


@dataclass(frozen=True)
class Answer:
    """The registry's last answer about a name, and until when it is used without asking again."""

    adapter: AdapterVersion | None
    problem: LorafleetError | None
    at: float
    """When the registry gave it."""
    until: float
    stale: bool = False


def after(
    outcome: AdapterVersion | LorafleetError, last: Answer | None, now: float, wanted: str, freshness: Freshness
) -> Answer:
    """The answer to use after the registry gave `outcome` at `now`, given the `last` one."""
    if isinstance(outcome, AdapterVersion):
        return Answer(outcome, None, now, now + freshness.ttl(wanted))
    if (
        isinstance(outcome, UnreachableError)
        and last is not None
        and last.adapter is not None
        and now - last.at <= freshness.ttl(wanted) + freshness.stale_for
    ):
        return replace(last, until=now + freshness.alias_ttl, stale=True)
    return Answer(None, outcome, now, now + freshness.refusal_ttl)


@dataclass(frozen=True)
class ResolverStats:
    """How a resolver's questions were answered since it was made."""

    hits: int = 0
    """Answered from the cache, or by a question to the registry that was under way."""
    misses: int = 0
    """Answered by asking the registry."""
    stale: int = 0
    """Answered from the cache after the answer had expired, because the registry did not answer."""
    failures: int = 0
    """Answered with an error."""


class Resolver:
    """Finds adapter versions by name; however many ask for a name, the registry is asked once. Thread-safe."""

    def __init__(
        self,
        registry: AdapterRegistry,
        freshness: Freshness = Freshness(),
        clock: Callable[[], float] = time.monotonic,
        threads: int = 8,
        max_answers: int = MAX_ANSWERS,
    ) -> None:
        self.registry, self.freshness = registry, freshness
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="adapter-resolver")
        self._lock = threading.Lock()  # guards the three below
        self._answers: LRUCache[tuple[str, str], Answer] = LRUCache(max_answers)
        self._asking: dict[tuple[str, str], Future[AdapterVersion]] = {}
        self._stats = ResolverStats()

    def find(self, name: str, version: str | None = None) -> Future[AdapterVersion]:
        """A future of the version asked for (a number, an alias, None for `champion`), its bundle on this machine.

        The future is shared: do not cancel it. It holds what the registry raises, as NotFoundError.
        """
        key = (name, version or CHAMPION)
        with self._lock:
            answer, asking = self._answers.get(key), self._asking.get(key)
            if asking is None and answer is not None and self._clock() < answer.until:
                asking = self._as_future(answer)
            if asking is not None:
                self._count(hits=1)
                return asking
            self._count(misses=1)
            asking = self._asking[key] = self._pool.submit(self._ask, key)
            return asking

    def forget(self, name: str, version: str | None = None) -> None:
        """Makes the next `find` ask the registry again, which checks the bundle again."""
        with self._lock:
            self._answers.pop((name, version or CHAMPION), None)

    def drop(self, name: str) -> None:
        """Makes the next `find` of this name ask the registry again, whichever version it is about."""
        with self._lock:
            for key in [key for key in self._answers if key[0] == name]:
                del self._answers[key]

    def known(self) -> set[AdapterVersion]:
        """The versions that it would answer with, or has."""
        with self._lock:
            return {answer.adapter for answer in self._answers.values() if answer.adapter is not None}

    def stats(self) -> ResolverStats:
        """The counts so far."""
        with self._lock:
            return self._stats

    def close(self) -> None:
        """Waits for the questions under way; nothing more can be found."""
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, key: tuple[str, str]) -> AdapterVersion:
        try:
            outcome = self._outcome(key)
            with self._lock:
                answer = after(outcome, self._answers.get(key), self._clock(), key[1], self.freshness)
                self._answers[key] = answer
                future = self._as_future(answer)
            if answer.stale:
                log.warning("%s; adapter %s@%s is served as last known", outcome, *key)
        finally:
            with self._lock:
                del self._asking[key]
        return future.result()

    def _outcome(self, key: tuple[str, str]) -> AdapterVersion | LorafleetError:
        try:
            return self.registry.resolve(*key)
        except LorafleetError as problem:
            return problem

    def _as_future(self, answer: Answer) -> Future[AdapterVersion]:
        """An answer as a future; with a copy of its error, because raising an error adds to its traceback."""
        future: Future[AdapterVersion] = Future()
        if answer.problem is not None:
            self._count(failures=1)
            future.set_exception(type(answer.problem)(*answer.problem.args))
        elif answer.adapter is not None:
            self._count(stale=int(answer.stale))
            future.set_result(answer.adapter)
        return future

    def _count(self, **more: int) -> None:
        self._stats = increased(self._stats, **more)
