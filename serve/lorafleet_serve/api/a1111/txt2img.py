"""A1111's body of `txt2img` as a request of ours, and our answer as A1111 gives it. Knows bodies only."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from lorafleet.config.strict import parse
from lorafleet.errors import RequestError
from lorafleet_serve.api.lists import ModelInfo
from lorafleet_serve.api.schemas import MAX_IMAGES, ImagesReply, ImagesRequest
from lorafleet_serve.api.words.sampler_names import A1111_SAMPLERS, is_known, sampler_named

UNUSED = ("enable_hr", "restore_faces", "tiling", "styles", "alwayson_scripts", "script_name", "subseed_strength",
          "refiner_checkpoint", "infotext")  # fmt: skip
"""Fields that change A1111's images and not ours; a client that asks for one is told."""
UNUSED_SETTINGS = ("CLIP_stop_at_last_layers", "samples_format", "sd_vae", "forge_additional_modules")
"""Overridden settings that mean nothing for SDXL, or say what is done."""
STEPPED = ("", "automatic", "normal", "uniform", "simple", "karras")
"""Schedules of steps that a sampler of ours may have."""
TITLE = re.compile(r"^(?P<name>.+?)(\.safetensors)?( \[(?P<hash>[^\]]+)\])?$")


class Txt2Img(BaseModel):
    """POST /sdapi/v1/txt2img: what is used of it. A1111's clients send dozens of fields, which are accepted."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    prompt: str = ""
    """As in POST /v1/images/generations; `<lora:NAME:0.8>` adds an adapter."""
    negative_prompt: str | None = None
    seed: int | None = -1
    """-1 draws one, which the answer's `info` has."""
    sampler_name: str | None = None
    """One of GET /sdapi/v1/samplers, or an alias; the base's own if absent."""
    sampler_index: str | None = None
    """The older name of `sampler_name`."""
    scheduler: str | None = None
    """The schedule of steps: Karras is meant together with DPM++ 2M."""
    batch_size: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    n_iter: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    """batch_size times n_iter images are made, ten at most."""
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    override_settings: dict[str, Any] | None = None
    """`sd_model_checkpoint`: the base, or an adapter on it as in `model` of POST /v1/images/generations."""
    send_images: bool = True


class Txt2ImgReply(BaseModel):
    """What POST /sdapi/v1/txt2img answers."""

    images: tuple[str, ...]
    """PNGs in base64; each has its `parameters` text."""
    parameters: dict[str, Any]
    """The request."""
    info: str
    """What made the images, as a JSON document."""
    warnings: tuple[str, ...] = ()
    """What the request asks for in vain."""


def to_ours(body: Txt2Img, base: ModelInfo) -> ImagesRequest:
    """The request that A1111's body means. RequestError says which of its values cannot be."""
    images = body.batch_size * body.n_iter
    if images > MAX_IMAGES:
        raise RequestError(f"batch_size times n_iter is {images}; at most {MAX_IMAGES} images are made at once")
    fields = {
        "prompt": body.prompt,
        "negative_prompt": body.negative_prompt,
        "model": _model(body.override_settings or {}, base),
        "n": images,
        "seed": body.seed,
        "steps": body.steps,
        "guidance_scale": body.cfg_scale,
        "width": body.width,
        "height": body.height,
        "scheduler": _sampler(body, base),
        "response_format": "b64_json",
    }
    return parse(ImagesRequest, fields, "body", RequestError)


def unused_notes(body: Txt2Img, base: ModelInfo) -> tuple[str, ...]:
    """What a body asks for that is not done here."""
    name = _sampler_name(body)
    own = A1111_SAMPLERS[base.schedulers[0]]
    unfit = name is not None and _sampler(body, base) is None
    notes: tuple[str, ...] = (f"sampler {name!r} does not fit {base.id}; its own, {own!r}, was used",) if unfit else ()
    extra = body.model_extra or {}
    given = [name for name in UNUSED if extra.get(name) not in (None, False, 0, "", "None", [], [""], {})]
    settings = body.override_settings or {}
    given += [f"override_settings.{name}" for name in settings if name not in ("sd_model_checkpoint", *UNUSED_SETTINGS)]
    if (body.scheduler or "").lower() not in STEPPED:
        given.append(f"scheduler {body.scheduler!r}")
    if given:
        notes += (f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} not used here",)
    return notes


def to_reply(body: Txt2Img, made: ImagesReply, request: ImagesRequest, base: ModelInfo) -> Txt2ImgReply:
    """Our answer as A1111 gives it."""
    images = tuple(str(image.b64_json) for image in made.data)
    info = _info(body, made, request, base.fingerprint, [_infotext(image) for image in images])
    return Txt2ImgReply(
        images=images if body.send_images else (),
        parameters=body.model_dump(),
        info=json.dumps(info),
        warnings=(*unused_notes(body, base), *made.warnings),
    )


def _model(settings: dict[str, Any], base: ModelInfo) -> str | None:
    """The model that a checkpoint's title means: its name, its name and hash, or its hash."""
    match = TITLE.match(str(settings.get("sd_model_checkpoint") or ""))
    if match is None:
        return None
    return base.id if base.fingerprint in (match["name"], match["hash"]) else match["name"]


def _sampler(body: Txt2Img, base: ModelInfo) -> str | None:
    """The base's sampler that a body names; None for one that others have, so that the base's own is used."""
    name = _sampler_name(body)
    ours = None if name is None else sampler_named(name, base.schedulers)
    if ours is None or ours in base.schedulers:
        return ours
    if is_known(ours):  # clients send the name of one that every Stable Diffusion has; an EDM base has two others
        return None
    allowed = ", ".join(A1111_SAMPLERS[each] for each in base.schedulers)
    raise RequestError(f"sampler_name is {name!r}; {base.id} has {allowed}")


def _sampler_name(body: Txt2Img) -> str | None:
    """A1111's name of a sampler and its schedule."""
    name, schedule = body.sampler_name or body.sampler_index or "", (body.scheduler or "").lower()
    if name.lower() in ("", "automatic"):
        return None
    karras = name.upper() == "DPM++ 2M" and schedule in ("automatic", "karras")  # A1111's automatic choice for it
    return f"{name} Karras" if karras else name


def _infotext(image: str) -> str:
    return str(Image.open(io.BytesIO(base64.b64decode(image))).info["parameters"])


def _info(
    body: Txt2Img, made: ImagesReply, request: ImagesRequest, fingerprint: str, infotexts: list[str]
) -> dict[str, Any]:
    width, height = map(int, made.size.split("x"))
    seeds, count = [image.seed for image in made.data], len(made.data)
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative_prompt or "",
        "all_negative_prompts": [request.negative_prompt or ""] * count,
        "seed": made.seed,
        "all_seeds": seeds,
        "subseed": made.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": A1111_SAMPLERS.get(made.scheduler, made.scheduler),
        "cfg_scale": made.guidance_scale,
        "steps": made.steps,
        "batch_size": body.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": made.model,
        "sd_model_hash": fingerprint,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": str(made.created),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
    }
