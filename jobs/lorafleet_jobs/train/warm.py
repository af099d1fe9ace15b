"""The base that a lane keeps warm: loaded once, used by job after job, never changed by any."""

from __future__ import annotations

from lorafleet.loaded import LoadedBase as WarmBase

__all__ = ["WarmBase"]
