"""One signed POST, tried a few times: how lorafleet tells an address that something has ended.

Knows bytes, a key and an address; refuses to know what is told. The receiver checks

    X-Lorafleet-Signature: sha256=HMAC-SHA256(key, X-Lorafleet-Timestamp + "." + body)

in hex, and that the timestamp is recent, so that nobody else can post and nobody can post it again later.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from lorafleet import __version__
from lorafleet.errors import first_line
from lorafleet.util.reach import ask_directly

TRIES = 3
TIMEOUT_SECONDS = 10.0
BACKOFF_SECONDS = 2.0  # doubled from try to try


def post_signed(url: str, body: bytes, key: str | None, pause: Callable[[float], None] = time.sleep) -> str | None:
    """Posts a JSON document; returns None if the receiver answered 2xx, else one line that says why it did not.

    Without a key it is not signed.
    """
    ask_directly(url)
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            pause(BACKOFF_SECONDS * 2 ** (attempt - 1))
        try:
            code, phrase = _post(url, body, key)
        except (httpx.RequestError, httpx.InvalidURL, OSError) as failure:
            problem = first_line(failure)
        else:
            if httpx.codes.is_success(code):
                return None
            problem = f"HTTP Error {code}: {phrase}"
    # An address may be a secret in itself; its host is not.
    return f"{urlsplit(url).netloc} was not notified, in {TRIES} tries: {problem}"


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
