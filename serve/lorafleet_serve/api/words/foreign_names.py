"""Bodies in other people's words: diffusers', A1111's, fal's and Replicate's names for our fields become ours.

What could mean two things is refused with the right name. Pure: bodies in, bodies out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorafleet.errors import RequestError

SAME = {
    "num_inference_steps": "steps",
    "cfg_scale": "guidance_scale",
    "negative": "negative_prompt",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "num_images": "n",
    "num_images_per_prompt": "n",
    "num_outputs": "n",
    "image_size": "size",
}
"""Other names of our fields; their values mean the same."""
NAMED_BY, SCALED_BY = ("name", "path", "model"), ("scale", "weight", "strength")
"""Keys of an adapter's name and scale in `loras`."""
ADAPTERS = 'adapters: [{"name": "dog-rex", "scale": 0.8}]'
FILE = re.compile(r"[/\\:]|\.safetensors$")


def in_our_names(body: Mapping[str, Any]) -> dict[str, Any]:
    """A request's body with our names; RequestError where two names of one field disagree, or a value fits neither."""
    ours = dict(body)
    for theirs, name in SAME.items():
        _take(ours, theirs, name, ours.pop(theirs, None))
    _join_sides(ours)
    _take_loras(ours)
    _take_scale(ours)
    if ours.get("seed") in (-1, "-1"):  # everywhere but here a wish for any seed
        del ours["seed"]
    if ours.get("output_format") == "jpg":
        ours["output_format"] = "jpeg"
    return ours


def _take(ours: dict[str, Any], theirs: str, name: str, value: Any) -> None:
    if value is None:
        return
    if ours.get(name) not in (None, value):
        raise RequestError(f"{name} is {ours[name]!r} and {theirs} is {value!r}; they mean the same, give {name} alone")
    ours[name] = value


def _join_sides(ours: dict[str, Any]) -> None:
    """`width` and `height`, and fal's `image_size` of both, are our `size`."""
    size = ours.get("size")
    if isinstance(size, Mapping) and set(size) == {"width", "height"}:
        ours["size"] = f"{size['width']}x{size['height']}"
    sides = {name: ours.pop(name, None) for name in ("width", "height")}
    given = [name for name, side in sides.items() if side is not None]
    if len(given) == 1:
        raise RequestError(f'{given[0]} is given alone; give both sides, as in size: "1024x768"')
    if given:
        _take(ours, "width x height", "size", "{width}x{height}".format(**sides))


def _take_loras(ours: dict[str, Any]) -> None:
    if "loras" not in ours:
        return
    loras = ours.pop("loras")
    if not loras:
        return
    if ours.get("adapters"):
        raise RequestError("loras and adapters mean the same; give adapters alone")
    if not isinstance(loras, list):
        raise RequestError(f"loras must be a list; write {ADAPTERS}")
    ours["adapters"] = [_adapter(i, lora) for i, lora in enumerate(loras)]


def _adapter(i: int, lora: object) -> dict[str, Any]:
    fields = {"name": lora} if isinstance(lora, str) else lora
    if not isinstance(fields, Mapping):
        raise RequestError(f"loras.{i} is {lora!r}; write {ADAPTERS}")
    names = [key for key in NAMED_BY if fields.get(key) is not None]
    scales = [key for key in SCALED_BY if fields.get(key) is not None]
    others = sorted(set(fields) - {*NAMED_BY, *SCALED_BY, "version"})
    if len(names) != 1 or len(scales) > 1 or others or not isinstance(fields[names[0]], str):
        raise RequestError(f"loras.{i} is not one adapter's name and scale; write {ADAPTERS}")
    name, _, version = fields[names[0]].partition("@")
    if FILE.search(name):
        raise RequestError(
            f"loras.{i}.{names[0]} is {name!r}; files and addresses are not fetched: `lorafleet adapters import` the "
            f"file once, then name it, as in {ADAPTERS}"
        )
    made = {"name": name, "version": fields.get("version", version or None)}
    return made if not scales else made | {"scale": fields[scales[0]]}


def _take_scale(ours: dict[str, Any]) -> None:
    """`lora_scale` is that of the one adapter which the body names."""
    scale = ours.pop("lora_scale", None)
    if scale is None:
        return
    adapters = ours.get("adapters")
    only = adapters[0] if isinstance(adapters, list) and len(adapters) == 1 else None
    if not isinstance(only, Mapping) or only.get("scale") not in (None, scale):
        raise RequestError(f"lora_scale is {scale!r}, and it is not clear of which adapter; write {ADAPTERS}")
    ours["adapters"] = [{**only, "scale": scale}]
