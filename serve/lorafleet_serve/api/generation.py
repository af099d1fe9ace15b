"""What the ingress does with a request before and after the engine: its words are understood, its links are made.

Every route that makes images goes through here. Knows a `Backend`; refuses to know routes and engines.
"""

from __future__ import annotations

import base64

from lorafleet_serve.api.encodings import MEDIA_TYPES
from lorafleet_serve.api.image_links import ImageLinks, KeptImage
from lorafleet_serve.api.lists import ModelInfo
from lorafleet_serve.api.model_ids import LINKLESS, is_usual_default, with_model
from lorafleet_serve.api.schemas import ImageData, ImagesReply, ImagesRequest, with_tags
from lorafleet_serve.api.service import Backend

LINKS = "v1/images/links"


class Generation:
    """Makes images by a backend. Of one event loop."""

    def __init__(self, backend: Backend, accept_any_model: bool = False, links: ImageLinks | None = None) -> None:
        self.backend, self.accept_any_model = backend, accept_any_model
        self.links = links or ImageLinks()
        self._base: ModelInfo | None = None

    async def base(self) -> ModelInfo:
        """The served base, which does not change."""
        if self._base is None:
            self._base = await self.backend.base()
        return self._base

    async def make(self, request: ImagesRequest, address: str) -> ImagesReply:
        """The answer to a request; its links begin with `address`, as in "http://127.0.0.1:8000/"."""
        asked, warnings = await self._understood(request)
        reply = await self.backend.generate(asked)
        data = tuple(self._as_wanted(image, request, address) for image in reply.data)
        return reply.model_copy(update={"data": data, "warnings": (*warnings, *reply.warnings)})

    async def understood(self, request: ImagesRequest) -> ImagesRequest:
        """The request as the backend is to have it, for images that are made later and have no links."""
        return (await self._understood(request))[0]

    def image(self, file: str) -> KeptImage | None:
        """The image that a link names, if it is still kept."""
        return self.links.get(file.partition(".")[0])

    async def _understood(self, request: ImagesRequest) -> tuple[ImagesRequest, tuple[str, ...]]:
        asked = with_tags(request)
        if asked.model is None:
            return asked, ()
        return await self._with_known_model(asked)  # here, where a replica is chosen by the request's adapters

    async def _with_known_model(self, request: ImagesRequest) -> tuple[ImagesRequest, tuple[str, ...]]:
        base, model = (await self.base()).id, str(request.model)
        if self.accept_any_model and is_usual_default(model):
            warning = f"model {model!r} is not served; the base, {base!r}, stands in for it"
            return request.with_changes(model=base), (warning,)
        return with_model(request, base), ()

    def _as_wanted(self, image: ImageData, request: ImagesRequest, address: str) -> ImageData:
        """An image as a file, a link, or both."""
        linkless = LINKLESS.match(request.model or "") is not None
        wanted = request.response_format or ("b64_json" if linkless else None)
        if wanted == "b64_json" or image.b64_json is None:
            return image
        name = self.links.add(base64.b64decode(image.b64_json), MEDIA_TYPES[request.output_format])
        link = {"url": f"{address}{LINKS}/{name}.{request.output_format}"}
        return image.model_copy(update=link | ({"b64_json": None} if wanted == "url" else {}))
