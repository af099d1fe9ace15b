"""The choice of a replica for a request. Pure: knows what each replica holds and its load, and neither Ray nor time.

A request goes where most of its adapters already are, unless that replica is full. Adapters that are nowhere yet, or
only on full replicas, are assigned by rendezvous hashing (Thaler & Ravishankar 1998: the replica with the highest hash
of replica and key), so that they spread evenly, mostly stay as replicas come and go, and need no shared state.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Replica:
    """A replica as the router sees it."""

    id: str
    held: frozenset[str] = frozenset()
    """Names of the adapters in its memory."""
    load: int = 0
    """Requests that it runs or queues."""
    room: int = 1
    """Requests that it can run at once; with that many it is full."""

    @property
    def full(self) -> bool:
        """Whether one more request would wait there."""
        return self.load >= self.room


def ranked(replicas: Sequence[Replica], wanted: Collection[str]) -> list[Replica]:
    """The replicas for a request that wants these adapters, best first.

    First those that are not full, by how many of the adapters they hold, then by rendezvous hash; then the full ones,
    least loaded first. A request without adapters goes to the least loaded.
    """
    key = ",".join(sorted(wanted))

    def rank(replica: Replica) -> tuple[object, ...]:
        load = replica.load / replica.room
        if not wanted or replica.full:
            return (replica.full, load, 0, -weight(replica.id, key))
        return (False, 0.0, -len(replica.held.intersection(wanted)), -weight(replica.id, key))

    return sorted(replicas, key=rank)


def choose(replicas: Sequence[Replica], wanted: Collection[str]) -> Replica:
    """The best replica for a request; `replicas` must not be empty."""
    return ranked(replicas, wanted)[0]


def weight(replica: str, key: str) -> int:
    """The rendezvous hash of a replica and a key: the same in every process."""
    return int.from_bytes(blake2b(f"{replica}\0{key}".encode(), digest_size=8).digest(), "big")
