"""Images as PNG bytes with how they were made: A1111's `parameters` text and a JSON text chunk `lorafleet`."""

from __future__ import annotations

import io
import json

from PIL.PngImagePlugin import PngInfo

import lorafleet
from lorafleet_serve.engine.init_image import InitImage
from lorafleet_serve.engine.requests import GeneratedImage, Settings

A1111_SAMPLERS = {
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "dpmpp-2m": "DPM++ 2M",
    "dpmpp-2m-karras": "DPM++ 2M Karras",
    "ddim": "DDIM",
    "lcm": "LCM",
    "tcd": "TCD",
    "edm-euler": "EDM Euler",
    "edm-dpmpp-2m": "EDM DPM++ 2M",
}


def png_bytes(made: GeneratedImage) -> bytes:
    """A PNG with both text chunks; text outside Latin-1 becomes iTXt."""
    info = PngInfo()
    info.add_text("parameters", a1111_parameters(made.settings))
    info.add_text("lorafleet", json.dumps(provenance(made.settings), ensure_ascii=True))
    stream = io.BytesIO()
    made.image.save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def a1111_parameters(settings: Settings) -> str:
    """Prompt, negative prompt and one line of settings, in A1111's format."""
    request, base = settings.request, settings.base
    tags = "".join(f" <lora:{use.adapter.name}:{use.scale:g}>" for use in request.adapters)
    lines = [request.prompt + tags]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    strength = "" if request.init is None else f"Denoising strength: {request.init.strength:g}, "
    lines.append(
        f"Steps: {settings.steps}, Sampler: {A1111_SAMPLERS.get(settings.scheduler, settings.scheduler)}, "
        f"CFG scale: {settings.guidance_scale:g}, Seed: {request.seed}, Size: {settings.width}x{settings.height}, "
        f"Model hash: {base.fingerprint}, Model: {base.name}, {strength}Version: lorafleet {lorafleet.__version__}"
    )
    return "\n".join(lines)


def provenance(settings: Settings) -> dict[str, object]:
    """Everything needed to make an image again, and the MLflow runs of its adapters."""
    return {
        "version": lorafleet.__version__,
        "base": settings.base.name,
        "base_fingerprint": settings.base.fingerprint,
        **settings.options(),
        "size": f"{settings.width}x{settings.height}",
        "time_ids": settings.time_ids(),
        "adapters": [
            {
                "name": use.adapter.name,
                "version": use.adapter.version,
                "scale": use.scale,
                "run_id": use.adapter.run_id,
            }
            for use in settings.request.adapters
        ],
        **_begun(settings.request.init),
    }


def _begun(init: InitImage | None) -> dict[str, object]:
    """The digests of the files that an image was begun from, and how much of it was made anew."""
    if init is None:
        return {}
    files = {"init_image_sha256": init.sha256, "mask_sha256": init.mask_sha256}
    return {"strength": init.strength, **{name: digest for name, digest in files.items() if digest is not None}}
