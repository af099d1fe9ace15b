"""One image file: what is refused before it is decoded, and what its pixels are when it is not."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lorafleet.errors import DataError
from lorafleet_jobs.images import (
    MAX_BYTES,
    OversizeError,
    decode_image,
    load_image,
    look_at,
    measure_image,
    read_picture,
)

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF")
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def corners(image: Image.Image) -> list[object]:
    w, h = image.width - 1, image.height - 1
    return [image.getpixel(xy) for xy in ((0, 0), (w, 0), (0, h), (w, h))]


def marked() -> Image.Image:
    """Landscape, with its top left quarter red and its top right quarter blue, on white."""
    image = Image.new("RGB", (40, 20), WHITE)
    image.paste(RED, (0, 0, 20, 10))
    image.paste(BLUE, (20, 0, 40, 10))
    return image


@pytest.mark.parametrize(
    ("orientation", "transpose"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),  # the camera was turned, so that the file holds the scene turned back
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
def test_exif_rotation_is_undone(orientation: int, transpose: Image.Transpose, format: str) -> None:  # noqa: A002
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    data = encoded(marked().transpose(transpose), format, exif=exif.tobytes(), **options)
    upright = decode_image(data)
    assert upright.size == (40, 20)
    assert measure_image(data) == (20, 40)
    np.testing.assert_allclose(corners(upright), [RED, BLUE, WHITE, WHITE], atol=12)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparency_lies_on_white(format: str) -> None:  # noqa: A002
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    image.paste((0, 0, 0, 128), (0, 4, 4, 8))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {"quality": 100} if format != "PNG" else {}
    if format == "HEIF":
        options |= {"chroma": 444}
    picture = read_picture(encoded(image.resize((64, 64), Image.Resampling.NEAREST), format, **options))
    corners = [picture.image.getpixel(xy) for xy in ((0, 0), (63, 63), (0, 63))]
    np.testing.assert_allclose(corners, [BLUE, WHITE, (127, 127, 127)], atol=0 if format in ("PNG", "TIFF") else 4)
    assert picture.see_through


def test_an_alpha_channel_that_hides_nothing_is_no_transparency() -> None:
    assert not read_picture(encoded(noise().convert("RGBA"), "PNG")).see_through


def test_a_transparent_palette_colour_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 1)
    found = decode_image(encoded(image, "PNG", transparency=0))
    assert (found.getpixel((0, 0)), found.getpixel((3, 3))) == (GREEN, WHITE)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    for format in ("PNG", "TIFF"):  # noqa: A001
        assert decode_image(encoded(grey, format)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("levels", [(65535, 32768, 0), (513, 1000, 40000)])
def test_sixteen_bits_a_channel_are_scaled(levels: tuple[int, int, int]) -> None:
    found = decode_image(png_of_16_bits(levels))
    np.testing.assert_allclose(found.getpixel((0, 0)), [level / 257 for level in levels], atol=1)


def png_of_16_bits(levels: tuple[int, int, int]) -> bytes:
    """A PNG of 4 x 4 pixels of one colour, 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">3H", *levels) * 4
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_tiff_of_32_bits_a_channel_is_refused(mode: str) -> None:
    with pytest.raises(DataError, match="has 32 bits a channel, and nothing says which number is white; export it as"):
        decode_image(encoded(Image.new(mode, (4, 4)), "TIFF"))


def test_a_tiff_in_lab_is_read_in_its_colours() -> None:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    picture = ImageCms.applyTransform(Image.new("RGB", (4, 4), (200, 90, 40)), lab)
    assert picture is not None
    np.testing.assert_allclose(decode_image(encoded(picture, "TIFF")).getpixel((0, 0)), (200, 90, 40), atol=4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "RGBA", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    found = decode_image(encoded(noise().convert(mode), "JPEG" if mode == "CMYK" else "PNG"))
    assert found.mode == "RGB"


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = encoded(Image.new("1", (9000, 9000)), "PNG")
    assert len(bomb) < 20_000
    with pytest.raises(OversizeError, match=r"has 81 megapixels \(9000 x 9000\); at most 65 are read, save it smaller"):
        decode_image(bomb)


def test_a_bomb_that_pillow_warns_of_is_refused_too() -> None:
    with pytest.raises(OversizeError, match="is too large"):
        decode_image(encoded(Image.new("1", (12000, 12000)), "PNG"))


def test_a_side_beyond_the_limit_is_refused() -> None:
    with pytest.raises(OversizeError, match=r"is 16385 x 2; a side of at most 16384 pixels"):
        decode_image(encoded(Image.new("1", (16385, 2)), "PNG"))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(OversizeError, match=r"big.jpg has 100.0 MB; at most 100 are read"):
        load_image(tmp_path / "big.jpg")


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused(format: str) -> None:  # noqa: A002
    data = encoded(noise(200, 200), format)
    with pytest.raises(DataError, match="damaged or cut short"):
        decode_image(data[: len(data) // 2])


def test_the_message_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.jpg does not hold"):
        load_image(tmp_path / "page.jpg")
    with pytest.raises(DataError, match="is not a regular file"):
        load_image(tmp_path / "none.jpg")


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damage_is_a_picture_or_a_data_error(format: str, place: int, junk: bytes) -> None:  # noqa: A002
    data = bytearray(encoded(noise(), format))
    place %= len(data)
    data[place : place + len(junk)] = junk
    outcome: object
    try:
        outcome = decode_image(bytes(data))
    except DataError as problem:
        outcome = problem
    assert isinstance(outcome, Image.Image | DataError)


def test_the_same_picture_in_another_size_looks_near_and_another_does_not() -> None:
    picture = noise(16, 16).resize((160, 160), Image.Resampling.BICUBIC)
    looks = look_at(picture)
    assert looks.is_near(look_at(picture.resize((120, 120))))
    assert looks.pixels != look_at(picture.resize((120, 120))).pixels
    assert not looks.is_near(look_at(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert not looks.is_near(look_at(noise(16, 16, seed=1).resize((160, 160), Image.Resampling.BICUBIC)))


def test_two_plain_pictures_of_different_colour_are_not_near() -> None:
    red, blue = (look_at(Image.new("RGB", (20, 20), colour)) for colour in (RED, BLUE))
    assert not red.is_near(blue)
