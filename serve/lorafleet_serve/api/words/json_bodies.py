"""Bodies without `Content-Type: application/json` are JSON too: `curl -d '{...}'` says they are a form.

No route reads such forms. A browser's cross-site request, which carries an `Origin`, is not read so: browsers send
forms to any address without asking it first, and JSON only to those that allow it.
"""

from __future__ import annotations

from typing import Any

JSON = b"application/json"
ALSO_JSON = (b"", b"application/x-www-form-urlencoded", b"text/plain", b"application/octet-stream")


class JsonByDefault:
    """ASGI middleware that calls the body of a POST JSON where nothing better is known."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes on the request, with another content type if need be."""
        if scope["type"] == "http" and scope["method"] == "POST":
            headers = dict(scope["headers"])
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind in ALSO_JSON and b"origin" not in headers:
                others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
                scope = {**scope, "headers": [*others, (b"content-type", JSON)]}
        await self.app(scope, receive, send)
