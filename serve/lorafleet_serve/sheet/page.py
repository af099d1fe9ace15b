"""A sheet as one web page that needs nothing else: pictures, style and script are in the file.

Its Content-Security-Policy forbids every address and all script but its own. Knows cells and pictures; refuses to know
what votes mean.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from lorafleet import __version__
from lorafleet.subject_words import without_subject
from lorafleet_serve.engine.requests import GeneratedImage
from lorafleet_serve.sheet.cells import Cell, Sheet, command, sampling
from lorafleet_serve.sheet.making import Pictures
from lorafleet_serve.sheet.votes import FORMAT

TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "page.js"
LOSSLESS = 256
"""Pixels of a side up to which a picture is in the page to the bit; larger ones are WebP of QUALITY."""
QUALITY = 92


@dataclass(frozen=True)
class CellView:
    """A cell as the template shows it."""

    id: str
    alt: str
    hint: str
    """What is shown while the pointer rests on it: the settings, a line each."""
    source: str
    """A data URI; empty if there is no picture."""
    why: str
    """Why there is none."""
    is_small: bool


def render(sheet: Sheet, pictures: Pictures, photos: dict[Path, Image.Image], under: str, name: str) -> str:
    """The page; `under` is the line below the title, `name` begins the name of the votes' file."""
    encoded: dict[int, str] = {}
    blocks = []
    cells: dict[str, dict[str, Any]] = {}
    for b, block in enumerate(sheet.blocks):
        rows = []
        for r, (head, row) in enumerate(zip(block.rows, block.cells, strict=True)):
            views = [None if cell is None else _view(f"{b}-{r}-{c}", cell, pictures, photos, encoded)
                     for c, cell in enumerate(row)]  # fmt: skip
            rows.append((head, views))
            cells |= {view.id: _data(cell, pictures) for cell, view in zip(row, views, strict=True) if cell and view}
        blocks.append({"title": block.title, "columns": block.columns, "rows": rows})
    style, script = (_text(file) for file in (STYLE, SCRIPT))
    votes_head = _votes_head(sheet)
    data = _json({"id": _identity(votes_head, cells), "name": name, **votes_head, "cells": cells})
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text(TEMPLATE)).render(
        title=sheet.title, under=under, blocks=blocks, style=Markup(style), script=Markup(script),
        data=Markup(data), style_hash=_hash(style), script_hash=_hash(script), version=__version__,
        made=datetime.now(UTC), votable=_is_votable(cells.values()),
    )  # fmt: skip


def data_uri(image: Image.Image) -> str:
    """A picture to be put into a page."""
    stream = io.BytesIO()
    lossless = max(image.size) <= LOSSLESS
    image.save(stream, "PNG" if lossless else "WEBP", quality=QUALITY)
    return f"data:image/{'png' if lossless else 'webp'};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _view(
    place: str, cell: Cell, pictures: Pictures, photos: dict[Path, Image.Image], encoded: dict[int, str]
) -> CellView:
    made = None if cell.request is None else pictures.made.get(cell.request)
    image = (photos.get(cell.photo) if cell.photo else None) if made is None else made.image
    if image is None:
        why = "" if cell.request is None else pictures.failed.get(cell.request, "")
        return CellView(place, cell.alt, cell.alt, "", why or "no picture", False)
    if id(image) not in encoded:
        encoded[id(image)] = data_uri(image)
    hint = cell.alt if made is None else "\n".join(f"{name}: {value}" for name, value in _settings(made, cell))
    return CellView(place, cell.alt, hint, encoded[id(image)], "", max(image.size) <= LOSSLESS)


def _data(cell: Cell, pictures: Pictures) -> dict[str, Any]:
    """What the script knows of a cell."""
    made = None if cell.request is None else pictures.made.get(cell.request)
    if made is None:
        return {"alt": cell.alt, "settings": [], "command": ""}
    voted = {"contestant": cell.contestant.model_dump(), "among": cell.among} if cell.contestant else {}
    request = made.settings.request
    return {
        "alt": cell.alt, "settings": _settings(made, cell), "command": command(made.settings, cell.candidate),
        "prompt": request.prompt, "seed": request.seed, "asked": _asked(request.prompt, cell), **voted,
    }  # fmt: skip


def _asked(prompt: str, cell: Cell) -> str:
    """The prompt for a voter, who need not know what TOK is."""
    if cell.candidate is None:
        return prompt
    return without_subject(prompt, cell.candidate.adapter.name, cell.candidate.card.class_noun)


def _settings(made: GeneratedImage, cell: Cell) -> list[tuple[str, str]]:
    settings, request = made.settings, made.settings.request
    label = cell.candidate.label if cell.candidate else ""
    adapters = [("adapter", f"{label} at scale {use.scale:g}") for use in request.adapters]
    point = [("recipe", cell.candidate.point)] if cell.candidate and cell.candidate.point and adapters else []
    negative = [("negative prompt", request.negative_prompt)] if request.negative_prompt else []
    return [
        ("prompt", request.prompt), *negative, *adapters, *point, ("seed", str(request.seed)),
        ("sampler", sampling(settings)), ("guidance", f"{settings.guidance_scale:g}"),
        ("size", f"{settings.width} × {settings.height}"), ("base", f"{settings.base.name}"),
    ]  # fmt: skip


def _is_votable(cells: Iterable[dict[str, Any]]) -> bool:
    """Whether there is a pair to be voted on."""
    contestants: dict[str, set[str]] = {}
    for cell in cells:
        if "contestant" in cell:
            contestants.setdefault(cell["among"], set()).add(str(cell["contestant"]))
    return any(len(some) > 1 for some in contestants.values())


def _votes_head(sheet: Sheet) -> dict[str, Any]:
    """What an exported file of votes says beside the votes (`votes.VotesFile`)."""
    return {
        "format": FORMAT,
        "sheet": sheet.title,
        "submissions": [one.run_id for one in sheet.found.submissions],
        "adapters": {one.label: one.adapter.run_id for one in sheet.found.candidates if one.registered},
    }


def _identity(head: dict[str, Any], cells: dict[str, dict[str, Any]]) -> str:
    """The same for a sheet that is made again, so that its votes go on, and another for other settings."""
    return hashlib.sha256(json.dumps([head, cells]).encode()).hexdigest()[:16]


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _text(file: str) -> str:
    return resources.files(__package__ or "lorafleet_serve.sheet").joinpath(file).read_text("utf-8").strip()


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an element's text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
