"""Our request router and autoscaling policy as Ray Serve calls them: thin classes over `routing` and `stats`.

Both of Ray's interfaces are alpha in 2.60, hence pyproject's bounds on ray. Routers run where handles are, in the
ingress; policies run in Serve's controller; so lorafleet must be installed on every node.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.engine.prompt_tags import unnamed_triggers
from lorafleet_serve.replicas.routing import Replica, ranked
from lorafleet_serve.stats import replicas_wanted

HELD, ROWS = "held", "rows"
"""Keys of a replica's recorded stats: names of the adapters in its memory; images it runs or queues."""


class AffinityRouter(RequestRouter):  # type: ignore[misc]
    """Sends a request to where its adapters are. `request_router_kwargs` has `room`, images a replica runs at once."""

    room = 1

    def initialize_state(self, room: int) -> None:
        """Called once by Ray Serve with `request_router_kwargs`."""
        self.room = room

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, best first; Serve takes the first that accepts."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Serve asks again without a pause
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        seen = [self._seen(replica) for replica in candidate_replicas]
        return [[by_id[replica.id]] for replica in ranked(seen, wanted(pending_request))]

    def _seen(self, replica: RunningReplica) -> Replica:
        stats = replica.routing_stats  # recorded up to a second ago
        sent = self.replica_queue_len_cache.get(replica.replica_id)  # counted by this handle, and current
        load = stats.get(ROWS, 0) if sent is None else sent
        return Replica(replica.replica_id.unique_id, frozenset(stats.get(HELD, ())), load, self.room)


def wanted(pending: PendingRequest | None) -> frozenset[str]:
    """The names of the adapters that a call asks for, or may wear by its prompt; none for calls that make no image."""
    arguments: list[Any] = [] if pending is None else pending.args
    requests = [argument for argument in arguments if isinstance(argument, ImagesRequest)]
    named = {choice.name for request in requests for choice in request.adapters}
    return frozenset(named.union(*(unnamed_triggers(request.prompt, named) for request in requests)))


class RowsPolicy:
    """As many replicas as are needed to run all images at once; Serve applies its bounds and delays."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be; requests that have not reached a replica count as one image each."""
        recorded = (context.aggregated_metrics or {}).get(ROWS, {})
        rows = max(sum(recorded.values()), context.total_num_requests)
        return replicas_wanted(rows, self.room), {}
