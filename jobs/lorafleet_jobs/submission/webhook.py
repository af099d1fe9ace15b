"""Posts how a submission ended to the address that its manifest names, signed as `util/signed_post.py` says.

Knows bytes, a manifest's `notify` and an environment; refuses to know submissions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lorafleet.config.manifest import Notify
from lorafleet.util.signed_post import post_signed


def notify(
    wanted: Notify, body: bytes, environment: Mapping[str, str], pause: Callable[[float], None] = time.sleep
) -> str | None:
    """Posts a JSON document; returns None if the receiver answered 2xx, else one line that says why it did not."""
    key = None
    if wanted.secret_env is not None and not (key := environment.get(wanted.secret_env)):
        return f"notify.secret_env names {wanted.secret_env}, which is not set here; nobody was notified"
    return post_signed(wanted.url, body, key, pause)
