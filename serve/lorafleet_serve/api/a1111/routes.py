"""The routes under /sdapi/v1: one checkpoint, the served base, and its adapters as LoRAs.

The server has many callers at once and keeps nothing of theirs between two requests: a request says which adapter it
wants, by `<lora:NAME:0.8>` or `override_settings`, and options that are set are not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request

from lorafleet_serve.api.a1111.txt2img import Txt2Img, Txt2ImgReply, to_ours, to_reply
from lorafleet_serve.api.generation import Generation
from lorafleet_serve.api.lists import AdapterModel, ModelInfo
from lorafleet_serve.api.words.sampler_names import A1111_SAMPLERS, other_names

EMPTY: dict[str, Any] = {
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "hypernetworks": [],
    "face-restorers": [],
    "prompt-styles": [],
    "scripts": {"txt2img": [], "img2img": []},
    "schedulers": [{"name": "automatic", "label": "Automatic"}, {"name": "karras", "label": "Karras"}],
}
"""What clients ask for and there is nothing of, or always the same."""
WITHOUT_EFFECT = ("interrupt", "skip", "refresh-checkpoints", "refresh-loras")
"""Calls that are accepted: closing the connection ends a request, and lists are always fresh."""


class Running:
    """The images that clients of these routes wait for."""

    def __init__(self) -> None:
        self.images = 0

    @contextmanager
    def counted(self, images: int) -> Iterator[None]:
        """Counts images while the block runs."""
        self.images += images
        try:
            yield
        finally:
            self.images -= images


def add_a1111(app: FastAPI, generation: Generation) -> None:
    """Adds the routes to an application."""
    router, running = APIRouter(prefix="/sdapi/v1", tags=["A1111"]), Running()
    _add_txt2img(router, generation, running)
    _add_what_there_is(router, generation)
    _add_options(router, generation)
    for name, nothing in EMPTY.items():
        router.add_api_route(f"/{name}", _answer(nothing), methods=["GET"], name=name, include_in_schema=False)
    for name in WITHOUT_EFFECT:
        router.add_api_route(f"/{name}", _answer({}), methods=["POST"], name=name, include_in_schema=False)
    app.include_router(router)


def _add_txt2img(router: APIRouter, generation: Generation, running: Running) -> None:
    @router.post("/txt2img")
    async def txt2img(body: Txt2Img, request: Request) -> Txt2ImgReply:
        """Makes images, as A1111's clients ask for them."""
        base = await generation.base()
        ours = to_ours(body, base)
        with running.counted(ours.n):
            made = await generation.make(ours, str(request.base_url))
        return await asyncio.to_thread(to_reply, body, made, ours, base)

    @router.get("/progress")
    async def progress() -> dict[str, Any]:
        """How many images are being made for clients of these routes. How far each is is not told."""
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": running.images, "job_timestamp": "0"}
        return {
            "progress": 0.0,
            "eta_relative": 0.0,
            "state": {**state, "job_no": 0, "sampling_step": 0, "sampling_steps": 0},
            "current_image": None,
            "textinfo": None,
        }


def _add_what_there_is(router: APIRouter, generation: Generation) -> None:
    @router.get("/sd-models")
    async def checkpoints() -> list[dict[str, Any]]:
        """The served base."""
        base = await generation.base()
        return [
            {
                "title": title_of(base), "model_name": base.id, "hash": base.fingerprint, "sha256": None,
                "filename": base.id, "config": None,
            }
        ]  # fmt: skip

    @router.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        """The base's samplers by A1111's names."""
        base = await generation.base()
        return [
            {"name": A1111_SAMPLERS[name], "aliases": [*other_names(name)], "options": {}} for name in base.schedulers
        ]

    @router.get("/loras")
    async def loras() -> list[dict[str, Any]]:
        """The adapters on the base: `<lora:NAME:0.8>` in a prompt wears one."""
        return [
            {
                "name": each.id, "alias": each.id, "path": f"{each.id}@{each.version}",
                "metadata": {"ss_base_model": each.base, "ss_output_name": each.id, "triggers": each.triggers},
            }
            for each in (await generation.backend.models()).data
            if isinstance(each, AdapterModel)
        ]  # fmt: skip


def _add_options(router: APIRouter, generation: Generation) -> None:
    @router.get("/options")
    async def options() -> dict[str, Any]:
        """The settings that clients read."""
        base = await generation.base()
        return {
            "sd_model_checkpoint": title_of(base),
            "sd_checkpoint_hash": base.fingerprint,
            "sd_vae": "Automatic",
            "samples_format": "png",
            "CLIP_stop_at_last_layers": 1,
        }

    @router.post("/options")
    async def set_options(options: dict[str, Any]) -> dict[str, Any]:
        """Accepts settings, and says that none is kept."""
        note = "options are not kept: requests of many callers run at once; give override_settings in each request"
        return {"warnings": [note] if options else []}


def title_of(base: ModelInfo) -> str:
    """A base as A1111's lists call it."""
    return f"{base.id} [{base.fingerprint}]"


def _answer(what: Any) -> Any:
    async def answer() -> Any:
        return what

    return answer
