"""Tells an address how a submission ended: one signed POST, tried a few times.

Knows bytes, a key and an address; refuses to know submissions. The receiver checks

    X-Lorafleet-Signature: sha256=HMAC-SHA256(key, X-Lorafleet-Timestamp + "." + body)

in hex, and that the timestamp is recent, so that nobody else can post and nobody can post it again later.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from lorafleet import __version__
from lorafleet.config.manifest import Notify
from lorafleet.errors import first_line
from lorafleet.util.reach import ask_directly

TRIES = 3
TIMEOUT_SECONDS = 10.0
BACKOFF_SECONDS = 2.0  # doubled from try to try


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What was signed for one address is not passed on to another, nor does a POST become a GET."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


def notify(
    wanted: Notify, body: bytes, environment: Mapping[str, str], pause: Callable[[float], None] = time.sleep
) -> str | None:
    """Posts a JSON document; returns None once it was taken with a 2xx, else in one line why it was not."""
    key = None
    if wanted.secret_env is not None and not (key := environment.get(wanted.secret_env)):
        return f"notify.secret_env names {wanted.secret_env}, which is not set here; nobody was notified"
    ask_directly(wanted.url)
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            pause(BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            _post(wanted.url, body, key)
        except (OSError, http.client.HTTPException) as failure:  # URLError and HTTPError are OSErrors
            problem = first_line(failure)
        else:
            return None
    # An address may be a secret in itself; its host is not.
    return f"{urlsplit(wanted.url).netloc} was not notified, in {TRIES} tries: {problem}"


def signature(key: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and the hex digest over the timestamp, a dot, and the body."""
    return "sha256=" + hmac.new(key.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _post(url: str, body: bytes, key: str | None) -> None:
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"lorafleet/{__version__}",
        "X-Lorafleet-Timestamp": timestamp,
        **({} if key is None else {"X-Lorafleet-Signature": signature(key, timestamp, body)}),
    }
    request = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_SECONDS):
        pass
