"""Formats of image files: which are read, how a file is known by its first bytes, and what other files are called.

Knows signatures, suffixes and headers. Refuses to know pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pillow_heif

# Pillow's own plugins read the others. Depth maps and gain maps beside an iPhone's picture are not asked for.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

READ = "JPEG, PNG, WEBP, HEIC, AVIF, TIFF, BMP or GIF"
"""For messages."""
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".heic", ".heif", ".hif", ".avif", ".tif",
    ".tiff", ".bmp", ".dib", ".gif",
})  # fmt: skip
RAW_SUFFIXES = frozenset({
    ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".rwl",
    ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf", ".mrw", ".kdc", ".dcr", ".gpr",
})  # fmt: skip
"""What cameras, and phones in their ProRAW mode, write before a picture is made of it."""
VIDEO_SUFFIXES = frozenset({
    ".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".3g2", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv",
    ".hevc", ".insv",
})  # fmt: skip
"""A Live Photo is a picture and a `.MOV` of its name."""
OTHER_SUFFIXES = frozenset({
    ".jp2", ".j2k", ".jpx", ".jxl", ".tga", ".psd", ".psb", ".xcf", ".exr", ".svg", ".ico",
})  # fmt: skip
"""Pictures of formats that are not read."""

_HEAD = 512
_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"), ("PNG", 0, b"\x89PNG\r\n\x1a\n"), ("WEBP", 8, b"WEBP"), ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"), ("TIFF", 0, b"II*\0"), ("TIFF", 0, b"MM\0*"),
)  # fmt: skip
_RAW_SIGNATURES = ((8, b"CR\x02"), (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"))
_OTHERS = (
    ("a JPEG XL picture", 0, b"\xff\x0a"), ("a JPEG XL picture", 4, b"JXL "), ("a JPEG 2000 picture", 4, b"jP  "),
    ("a Photoshop file", 0, b"8BPS"), ("a GIMP file", 0, b"gimp xcf"), ("an OpenEXR picture", 0, b"v/1\x01"),
    ("a PDF", 0, b"%PDF"), ("a video", 0, b"\x1aE\xdf\xa3"), ("a video", 8, b"AVI "),
)  # fmt: skip
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2"}
_DECLARED_SIZE = re.compile(rb"\0\0\0\x14ispe\0{4}(.{8})", re.DOTALL)
_CODED_COLOURS = re.compile(rb"\0\0\0\x13colrnclx(.{4})", re.DOTALL)


def sniff(path: Path) -> str | None:
    """The format by a file's first bytes, as `format_of` names it."""
    with path.open("rb") as stream:
        return format_of(stream.read(_HEAD))


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format of a picture that is read, by its first bytes; None of anything else."""
    if _is_raw(data):
        return None
    for name, start, signature in _SIGNATURES:
        if data.startswith(signature, start):
            return name
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIF"
    return "BMP" if data.startswith(b"BM") and _u32(data, 14) in _BMP_HEADERS else None


def what_else(data: bytes) -> str:
    """That a file holds no picture of a format that is read, and what to do; continues the file's name."""
    if not data:
        return "is empty; copy it anew or remove it"
    if _is_raw(data):
        return "is a RAW file of a camera; export it as JPEG"
    known = next((name for name, start, signature in _OTHERS if data.startswith(signature, start)), None)
    if known is None and _brands(data):
        known = "a video"
    if known is None:
        return f"does not hold a {READ}, whatever its name says; replace it or remove it"
    return f"is {known}, which is not read; " + ("save one frame of it as JPEG" if "video" in known else "save as JPEG")


def declared_sizes(data: bytes, format: str) -> Iterator[tuple[int, int]]:  # noqa: A002
    """Width and height of every picture and tile that a HEIC or AVIF declares; libraries refuse some without a word.

    ISO/IEC 23008-12, 6.5.3: ImageSpatialExtentsProperty.
    """
    if format in ("HEIF", "AVIF"):
        for match in _DECLARED_SIZE.finditer(data):
            yield struct.unpack(">II", match[1])


def coded_colours(data: bytes, format: str) -> tuple[int, int] | None:  # noqa: A002
    """Colour primaries and transfer that an AVIF or HEIC says by number (ITU-T H.273), if it says one thing only.

    ISO/IEC 14496-12, 12.1.5: ColourInformationBox of type nclx.
    """
    if format not in ("HEIF", "AVIF"):
        return None
    said = {struct.unpack(">HH", match[1]) for match in _CODED_COLOURS.finditer(data)}
    return said.pop() if len(said) == 1 else None


def _is_raw(data: bytes) -> bool:
    return b"crx " in _brands(data) or any(data.startswith(mark, start) for start, mark in _RAW_SIGNATURES)


def _brands(data: bytes) -> set[bytes]:
    """Of a file in boxes: what it says that it is, and what it can be read as (ISO/IEC 14496-12, 4.3)."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), _HEAD, len(data))
    return {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}


def _u32(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "little")
