"""A Ray cluster of three nodes on this machine: a head that never works, and two nodes that may be killed."""

from __future__ import annotations

import os
import random
import secrets
from typing import Any

from chaos_place import Place

OBJECT_STORE_BYTES = 128 * 2**20


class Nodes:
    """The cluster; its processes belong to a place."""

    def __init__(self, place: Place) -> None:
        os.environ.update({key: place.environment[key] for key in ("RAY_TMPDIR", "TMPDIR", "RAY_worker_niceness")})
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        place.environment |= {key: os.environ[key] for key in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._workers: list[Any] = [self._add(), self._add()]
        place.address = self._cluster.address

    def kill(self, rng: random.Random) -> None:
        """Kills a whole node, raylet and all, and puts a new one in its place."""
        victim = self._workers.pop(rng.randrange(len(self._workers)))
        self._cluster.remove_node(victim, allow_graceful=False)
        self._workers.append(self._add())

    def shutdown(self) -> None:
        """Ends the cluster."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(wait=False, num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
