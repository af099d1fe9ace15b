"""Looks through every byte of a home for what should be gone: parts of files and tensors, texts, and pictures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image
from safetensors.numpy import load_file

from lorafleet_jobs.images import look_at

WINDOW = 24  # bytes, which no two files share by chance
DATA_URI = re.compile(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)")
PICTURE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def windows(data: bytes, count: int = 5) -> list[bytes]:
    """Parts of a file's second half, where no header is; none that repeats one byte."""
    half = len(data) // 2
    starts = range(half, len(data) - WINDOW - 16, max(1, half // count))
    return [part for start in starts if len(set(part := data[start : start + WINDOW])) > WINDOW // 2]


def of_file(path: Path) -> list[bytes]:
    return windows(path.read_bytes())


def of_tensors(path: Path) -> list[bytes]:
    return [part for tensor in load_file(path).values() for part in windows(tensor.tobytes(), 2)]


def where(root: Path, needles: list[bytes]) -> set[Path]:
    """The files of a home, databases among them, that hold one of these."""
    return {path for path, data in contents(root).items() if any(needle in data for needle in needles)}


def pictures(root: Path) -> list:
    """What every picture in a home looks like: files, what pages hold as data URIs, what lies in any other file."""
    found = []
    for data in contents(root).values():
        inside = [base64.b64decode(part) for part in DATA_URI.findall(data)]
        inside += [data[match.start() :] for match in PICTURE.finditer(data)]
        for one in inside:
            try:
                with Image.open(io.BytesIO(one)) as image:
                    found.append(look_at(image.convert("RGB")))
            except OSError:
                continue  # bytes that begin like a picture and are none
    return found
