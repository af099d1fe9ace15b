"""A small HTTP client for the generation API: JSON documents and pictures of one server."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from lorafleet.errors import RequestError, UnreachableError
from lorafleet.util.reach import ask_directly


@dataclass(frozen=True)
class Client:
    """Talks to the server at one address, such as `http://127.0.0.1:8000`.

    Every call raises RequestError if the answer is an error, and UnreachableError if none comes in `timeout`
    seconds.
    """

    address: str
    timeout: float = 120.0

    def get(self, path: str) -> dict[str, Any]:
        """The JSON document at a path."""
        return self._call("GET", path)

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
        reply = self._call("POST", "/v1/images/generations", body)
        return Image.open(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"]))).convert("RGB")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        ask_directly(self.address)
        try:
            response = httpx.request(
                method, self.address + path, json=body, timeout=self.timeout, follow_redirects=True
            )
        except httpx.RequestError as problem:
            raise UnreachableError(
                f"{self.address} does not answer ({problem}); is `lorafleet serve` running?"
            ) from None
        if response.is_error:
            raise RequestError(f"{self.address}: {response.status_code} {response.text[:500]}")
        document: dict[str, Any] = response.json()
        return document
