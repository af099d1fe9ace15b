"""The answer to a request whose images are finished. Knows bodies and files; refuses to know where they travel."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence

from lorafleet_serve.api.encodings import encoded
from lorafleet_serve.api.schemas import AppliedAdapter, ImageData, ImagesReply, ImagesRequest
from lorafleet_serve.engine.requests import AdapterUse, GeneratedImage


def reply_to(request: ImagesRequest, images: Sequence[GeneratedImage], warnings: tuple[str, ...]) -> ImagesReply:
    """The images in the file format that was asked for, and what made them; takes milliseconds for each image."""
    settings = images[0].settings
    files = [encoded(image, request.output_format, request.output_compression) for image in images]
    return ImagesReply(
        created=int(time.time()),
        data=tuple(
            ImageData(b64_json=base64.b64encode(file).decode(), seed=image.settings.request.seed)
            for file, image in zip(files, images, strict=True)
        ),
        seed=settings.request.seed,
        model=settings.base.name,
        adapters=tuple(_applied(use) for use in settings.request.adapters),
        size=f"{settings.width}x{settings.height}",
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        scheduler=settings.scheduler,
        output_format=request.output_format,
        warnings=warnings,
    )


def _applied(use: AdapterUse) -> AppliedAdapter:
    adapter = use.adapter
    return AppliedAdapter(name=adapter.name, version=adapter.version, scale=use.scale, run_id=adapter.run_id)
