"""A small HTTP client for the generation API, on the standard library alone."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lorafleet.errors import RequestError, UnreachableError
from lorafleet.util.reach import ask_directly


@dataclass(frozen=True)
class Client:
    """Talks to one server, such as `http://127.0.0.1:8000`."""

    address: str
    timeout: float = 120.0

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON document."""
        return self._call(urllib.request.Request(self.address + path))

    def ready(self) -> bool:
        """Whether the server takes requests."""
        try:
            self.get("/readyz")
        except (UnreachableError, RequestError):
            return False
        return True

    def generate(self, prompt: str, adapter: str | None = None, **fields: Any) -> Image.Image:
        """One picture, with one adapter or with the base alone."""
        body = {"prompt": prompt, "adapters": [{"name": adapter}] if adapter else [], **fields}
        request = urllib.request.Request(
            self.address + "/v1/images/generations",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        reply = self._call(request)
        return Image.open(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"]))).convert("RGB")

    def _call(self, request: urllib.request.Request) -> dict[str, Any]:
        ask_directly(self.address)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                document: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as refusal:
            raise RequestError(
                f"{self.address}: {refusal.code} {refusal.read().decode(errors='replace')[:500]}"
            ) from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as problem:
            raise UnreachableError(
                f"{self.address} does not answer ({problem}); is `lorafleet serve` running?"
            ) from None
        return document
