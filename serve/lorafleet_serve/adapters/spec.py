"""Parses an adapter named on the command line, `NAME[@VERSION|ALIAS][=SCALE]`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lorafleet.config.wording import NAME_PATTERN
from lorafleet.errors import RequestError

FORM = re.compile(r"^(?P<name>[^@=]+)(@(?P<version>[^@=]+))?(=(?P<scale>[^@=]+))?$")


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as the command line names it: by its registered name, or by the folder of a bundle."""

    name: str
    version: str | None = None
    scale: float = 1.0
    folder: Path | None = None


def parse_adapter(text: str) -> AdapterSpec:
    """`dog-rex`, `dog-rex@3`, `dog-rex@champion=0.8`, or `./bundles/dog-rex=0.8`; RequestError shows the form."""
    path, equals, tail = text.rpartition("=")
    if "/" in text:
        folder, scale = (path, _scale(tail, text)) if equals and "/" not in tail else (text, 1.0)
        return AdapterSpec(Path(folder).name, scale=scale, folder=Path(folder))
    match = FORM.match(text)
    if match is None or not re.match(NAME_PATTERN, match["name"]):
        raise RequestError(
            f"--adapter {text!r} is not NAME[@VERSION|ALIAS][=SCALE], as in dog-rex@champion=0.8, nor a bundle's folder"
        )
    return AdapterSpec(match["name"], match["version"], _scale(match["scale"], text) if match["scale"] else 1.0)


def _scale(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RequestError(f"--adapter {text!r}: scale {value!r} is not a number; write it as in dog-rex=0.8") from None
