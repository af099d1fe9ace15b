"""Which files are pictures that are read, what others are called, and what is refused by its header."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorafleet.errors import DataError
from lorafleet_jobs.image_formats import OTHER_SUFFIXES, RAW_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES, format_of, sniff
from lorafleet_jobs.images import OversizeError, decode_image, load_image, measure_image, read_picture

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF")


def picture(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth, so that no format changes it by much."""
    corners = np.random.default_rng(seed).integers(40, 216, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_is_known_by_what_it_holds_and_read(tmp_path: Path, format: str) -> None:  # noqa: A002
    file = tmp_path / "photo.of-some-kind"
    file.write_bytes(encoded(picture(), format))
    assert sniff(file) == format
    found = load_image(file)
    assert (found.mode, found.size, measure_image(file.read_bytes())) == ("RGB", (40, 30), (30, 40))
    difference = np.abs(np.asarray(found, dtype=int) - np.asarray(picture(), dtype=int)).mean()
    assert difference < (16 if format == "GIF" else 4)


def test_the_first_picture_of_an_mpo_is_the_photograph() -> None:
    data = encoded(picture(1), "MPO", save_all=True, append_images=[picture(2)])
    found = read_picture(data)
    assert (format_of(data), found.others) == ("JPEG", "")
    np.testing.assert_allclose(np.asarray(found.image, dtype=int), np.asarray(picture(1), dtype=int), atol=12)


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ("GIF", "is an animation of 3 frames; the first is used"),
        ("PNG", "is an animation of 3 frames; the first is used"),
        ("WEBP", "is an animation of 3 frames; the first is used"),
        ("AVIF", "is an animation of 3 frames; the first is used"),
        ("TIFF", "holds 3 pictures; only the first is used"),
        ("HEIF", "holds 3 pictures; only the first is used"),
    ],
)
def test_the_first_of_several_pictures_is_read_and_said(format: str, said: str) -> None:  # noqa: A002
    flat = [Image.new("RGB", (64, 64), colour) for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]
    found = read_picture(encoded(flat[0], format, save_all=True, append_images=flat[1:]))
    assert found.others.startswith(said)
    np.testing.assert_allclose(found.image.getpixel((30, 30)), (250, 10, 10), atol=6)


def declaring(data: bytes, width: int, height: int) -> bytes:
    """A HEIC or AVIF whose header claims another size."""
    start = data.index(b"ispe") + 8
    return data[:start] + struct.pack(">II", width, height) + data[start + 8 :]


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + encoded(picture(), "GIF")[10:]


def bmp(width: int, height: int) -> bytes:
    data = encoded(picture(), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff(width: int, height: int) -> bytes:
    """One pixel, and tags that claim more."""
    data = encoded(Image.new("L", (1, 1)), "TIFF")
    for tag, value in ((256, width), (257, height)):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data = data[:at] + struct.pack("<I", value) + data[at + 4 :]
    return data


@pytest.mark.parametrize("size", [(60000, 60000), (9000, 9000), (16385, 40)])
@pytest.mark.parametrize("make", ["HEIF", "AVIF", gif, bmp, tiff])
def test_a_header_that_claims_too_much_is_refused(make: object, size: tuple[int, int]) -> None:
    data = make(*size) if callable(make) else declaring(encoded(picture(0, 64, 64), str(make)), *size)
    for read in (decode_image, measure_image):
        with pytest.raises(OversizeError, match=f"is {size[0]} x {size[1]}; a side|has 81 megapixels|is too large"):
            read(data)


def test_a_picture_that_is_larger_than_its_header_says_is_not_decoded() -> None:
    data = declaring(encoded(Image.new("RGB", (600, 400)), "HEIF"), 16, 16)
    with pytest.raises(DataError, match="is damaged or cut short"):
        decode_image(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty; copy it anew or remove it"),
        (b"<html>no</html>", "does not hold a JPEG, PNG, WEBP, HEIC, AVIF, TIFF, BMP or GIF, whatever its name says"),
        (b"BMW in the snow, a photo of TOK", "does not hold a JPEG"),
        (b"\xff\x0a" + bytes(40), "is a JPEG XL picture, which is not read; save as JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "is a JPEG XL picture"),
        (b"8BPS\0\1" + bytes(40), "is a Photoshop file"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(40), "is a video, which is not read; save one frame of it as JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(40), "is a RAW file of a camera; export it as JPEG"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "is a RAW file of a camera"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), "is a RAW file of a camera"),
        (encoded(picture(), "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "is a RAW file of a camera; export it as JPEG"),
        (encoded(picture(), "TIFF", tiffinfo={254: 1}), "is a RAW file of a camera; export it as JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(40), "is damaged or cut short"),
        (encoded(picture(), "AVIF")[:60], "is damaged or cut short"),
    ],
)
def test_anything_else_is_refused_by_what_it_is(data: bytes, said: str) -> None:
    with pytest.raises(DataError) as problem:
        decode_image(data)
    assert said in str(problem.value)


def test_a_suffix_says_one_thing() -> None:
    kinds = (SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES, OTHER_SUFFIXES)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert all(suffix.startswith(".") and suffix == suffix.lower() for kind in kinds for suffix in kind)
