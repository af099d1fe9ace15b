"""Posts how a submission ended to an address: one signed POST, tried a few times.

Knows bytes, a key and an address; refuses to know submissions. The receiver checks

    X-Lorafleet-Signature: sha256=HMAC-SHA256(key, X-Lorafleet-Timestamp + "." + body)

in hex, and that the timestamp is recent, so that nobody else can post and nobody can post it again later.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import httpx

from lorafleet import __version__
from lorafleet.config.manifest import Notify
from lorafleet.errors import first_line
from lorafleet.util.reach import ask_directly

TRIES = 3
TIMEOUT_SECONDS = 10.0
BACKOFF_SECONDS = 2.0  # doubled from try to try


def notify(
    wanted: Notify, body: bytes, environment: Mapping[str, str], pause: Callable[[float], None] = time.sleep
) -> str | None:
    """Posts a JSON document; returns None if the receiver answered 2xx, else one line that says why it did not."""
    key = None
    if wanted.secret_env is not None and not (key := environment.get(wanted.secret_env)):
        return f"notify.secret_env names {wanted.secret_env}, which is not set here; nobody was notified"
    ask_directly(wanted.url)
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            pause(BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            code, phrase = _post(wanted.url, body, key)
        except (httpx.RequestError, httpx.InvalidURL, OSError) as failure:
            problem = first_line(failure)
        else:
            if httpx.codes.is_success(code):
                return None
            problem = f"HTTP Error {code}: {phrase}"
    # An address may be a secret in itself; its host is not.
    return f"{urlsplit(wanted.url).netloc} was not notified, in {TRIES} tries: {problem}"


def signature(key: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and the hex digest over the timestamp, a dot, and the body."""
    return "sha256=" + hmac.new(key.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _post(url: str, body: bytes, key: str | None) -> tuple[int, str]:
    """Sends one request and returns the status code and its phrase; the answer's body is not read.

    Redirects are not followed: what was signed for one address is not passed on to another. Certificates are checked
    against the system's store.
    """
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"lorafleet/{__version__}",
        "X-Lorafleet-Timestamp": timestamp,
        **({} if key is None else {"X-Lorafleet-Signature": signature(key, timestamp, body)}),
    }
    with httpx.stream(
        "POST",
        url,
        content=body,
        headers=headers,
        timeout=TIMEOUT_SECONDS,
        follow_redirects=False,
        verify=ssl.create_default_context(),
    ) as response:
        return response.status_code, response.reason_phrase
