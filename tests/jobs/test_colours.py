"""Embedded colour profiles: what a picture's numbers become, against the colour arithmetic done by hand."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from lorafleet_jobs.colours import to_srgb
from lorafleet_jobs.images import decode_image, read_picture

# Columns of red, green and blue as XYZ adapted to D50 (Bradford), from the published primaries.
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
P3 = np.array(
    [[0.5151187, 0.2919778, 0.1571035], [0.2411892, 0.6922441, 0.0665668], [-0.0010505, 0.0418791, 0.7840713]]
)
BT2020 = np.array(
    [[0.6734241, 0.1656411, 0.1251286], [0.2790177, 0.6753402, 0.0456377], [-0.0019300, 0.0299784, 0.7973330]]
)
D50 = np.array([0.9642, 1.0, 0.8249])


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2, put together by its specification (ICC.1:2001-04, section 6)."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79), **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def by_matrix(columns: np.ndarray, gamma: float = 2.2) -> bytes:
    white = {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    colorants = {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*columns[:, i]) for i, name in enumerate((b"r", b"g", b"b"))}
    return profile(b"RGB ", {**white, **colorants, **{name + b"TRC": curve(gamma) for name in (b"r", b"g", b"b")}})


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50), b"kTRC": curve(gamma)})


def cmyk_profile(corners: np.ndarray) -> bytes:
    """Inks to Lab by a table of their 16 corners, [2, 2, 2, 2, 3], linear between them."""
    lab = np.clip(corners * [255 / 100, 1, 1] + [0, 128, 128], 0, 255).round().astype(np.uint8)
    ramp = bytes(range(256))
    table = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + ramp * 4
        + lab.tobytes()
        + ramp * 3
    )
    white = {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    return profile(b"CMYK", {**white, b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")


def encoded_srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def by_hand(levels: np.ndarray, columns: np.ndarray, gamma: float) -> np.ndarray:
    """[..., 3] of 255 in a profile's colours as sRGB of 255: to light, to XYZ, to sRGB's light, to levels."""
    light = (levels / 255) ** gamma
    return encoded_srgb(light @ columns.T @ np.linalg.inv(SRGB).T)


def lab_by_hand(lab: tuple[float, float, float]) -> np.ndarray:
    y = (lab[0] + 16) / 116
    f = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return encoded_srgb(xyz @ np.linalg.inv(SRGB).T)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


LEVELS = np.array([[200, 60, 40], [30, 160, 60], [40, 60, 190], [128, 128, 128], [250, 250, 250]], dtype=np.uint8)
BLOCKS = Image.fromarray(np.repeat(np.repeat(LEVELS[None], 16, axis=0), 16, axis=1))


CLOSELY: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {},
    "HEIF": {"quality": 100, "chroma": 444}, "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}  # fmt: skip
"""Options with which a format changes colours by little."""


def middles(image: Image.Image) -> np.ndarray:
    return np.array([image.getpixel((16 * i + 8, 8)) for i in range(len(LEVELS))], dtype=float)


@pytest.mark.parametrize(("columns", "gamma"), [(ADOBE, 2.2), (P3, 2.2), (SRGB, 1.8)])
@pytest.mark.parametrize("format", list(CLOSELY))
def test_colours_are_converted_by_their_profile(columns: np.ndarray, gamma: float, format: str) -> None:  # noqa: A002
    data = encoded(BLOCKS, format, icc_profile=by_matrix(columns, gamma), **CLOSELY[format])
    picture = read_picture(data)
    assert picture.profile_problem == picture.damage == ""
    np.testing.assert_allclose(
        middles(picture.image), by_hand(LEVELS, columns, gamma), atol=6 if format == "AVIF" else 3
    )
    assert np.abs(middles(picture.image) - LEVELS).max() > 15  # as which they were read before


def told_by_number(data: bytes, primaries: int, transfer: int) -> bytes:
    """A HEIC or AVIF that says its colours by other numbers of ITU-T H.273."""
    start = data.index(b"colrnclx") + 8
    return data[:start] + struct.pack(">HH", primaries, transfer) + data[start + 4 :]


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize(("primaries", "columns"), [(1, SRGB), (12, P3), (9, BT2020)])
def test_colours_that_are_told_by_number(format: str, primaries: int, columns: np.ndarray) -> None:  # noqa: A002
    picture = read_picture(told_by_number(encoded(BLOCKS, format, **CLOSELY[format]), primaries, 13))
    assert picture.profile_problem == ""
    linear = np.where(LEVELS / 255 <= 0.04045, LEVELS / 255 / 12.92, ((LEVELS / 255 + 0.055) / 1.055) ** 2.4)
    wanted = encoded_srgb(linear @ columns.T @ np.linalg.inv(SRGB).T)
    np.testing.assert_allclose(middles(picture.image), wanted, atol=3)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_brightness_of_hdr_is_told(transfer: int, name: str) -> None:
    picture = read_picture(told_by_number(encoded(BLOCKS, "AVIF"), 9, transfer))
    assert picture.profile_problem == (
        f"has a colour profile that is for HDR ({name}); it is read as sRGB, save it as sRGB"
    )


@pytest.mark.parametrize(("index", "profiled"), [("R03", True), ("R98", False)])
def test_adobe_rgb_by_exif_alone(index: str, profiled: bool) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {ExifTags.Interop.InteropIndex: index}
    picture = read_picture(encoded(BLOCKS, "JPEG", quality=100, subsampling=0, exif=exif))
    assert picture.profile_problem == picture.damage == ""
    wanted = by_hand(LEVELS, ADOBE, 563 / 256) if profiled else LEVELS
    np.testing.assert_allclose(middles(picture.image), wanted, atol=3)


def test_a_profile_that_says_srgb_changes_no_bit() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    assert decode_image(encoded(noise, "PNG", icc_profile=srgb)).tobytes() == noise.tobytes()


def test_transparency_stays_and_lies_on_white() -> None:
    layer = BLOCKS.copy()
    layer.putalpha(
        Image.fromarray(np.repeat(np.array([[255, 255, 255, 255, 0]], dtype=np.uint8), 16, axis=1).repeat(16, 0))
    )
    found = middles(decode_image(encoded(layer, "PNG", icc_profile=by_matrix(ADOBE))))
    np.testing.assert_allclose(found[:4], by_hand(LEVELS[:4], ADOBE, 2.2), atol=3)
    assert found[4].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_pictures_are_converted_by_a_grey_profile(mode: str) -> None:
    grey = (
        Image.fromarray(np.full((8, 8), 100 << 8, dtype=np.uint16)) if mode == "I;16" else Image.new("L", (8, 8), 100)
    )
    found = decode_image(encoded(grey.convert(mode), "PNG", icc_profile=grey_profile(1.0)))
    np.testing.assert_allclose(found.getpixel((4, 4)), encoded_srgb(np.full(3, 100 / 255)), atol=2)


def test_a_grey_picture_with_a_profile_of_colours_is_converted_as_grey() -> None:
    found = read_picture(encoded(Image.new("L", (8, 8), 100), "JPEG", quality=100, icc_profile=by_matrix(SRGB, 1.0)))
    assert found.profile_problem == ""
    np.testing.assert_allclose(found.image.getpixel((4, 4)), encoded_srgb(np.full(3, 100 / 255)), atol=2)


def test_inks_are_converted_by_their_profile() -> None:
    corners = np.zeros((2, 2, 2, 2, 3))
    corners[0, 0, 0, 0] = (100, 0, 0)
    corners[1, 0, 0, 0] = (60, -20, -30)
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    found = decode_image(encoded(cyan, "JPEG", quality=100, icc_profile=cmyk_profile(corners)))
    np.testing.assert_allclose(found.getpixel((8, 8)), lab_by_hand((60, -20, -30)), atol=4)
    plain = decode_image(encoded(Image.new("CMYK", (16, 16)), "JPEG", quality=100, icc_profile=cmyk_profile(corners)))
    np.testing.assert_allclose(plain.getpixel((8, 8)), (255, 255, 255), atol=2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"not a profile", "has a colour profile that cannot be read"),
        (by_matrix(P3)[:200], "has a colour profile that cannot be read"),
        (profile(b"RGB ", {}), "has a colour profile that cannot be used"),
        (grey_profile(1.0), "has a colour profile that is for L pictures, and this one is RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told_and_the_picture_read_without(data: bytes, said: str) -> None:
    picture = read_picture(encoded(BLOCKS, "PNG", icc_profile=data))
    assert picture.image.tobytes() == BLOCKS.tobytes()
    assert picture.profile_problem.startswith(said)
    assert picture.profile_problem.endswith("; it is read as sRGB, save it as sRGB")


def test_a_picture_without_a_profile_keeps_its_bits() -> None:
    image, problem = to_srgb(BLOCKS, None)
    assert (image.tobytes(), problem) == (BLOCKS.tobytes(), "")


def png(depth: int, rows: np.ndarray, clear: tuple[int, ...], width: int) -> bytes:
    """A PNG by its specification, since Pillow writes no transparent colour beyond 8 bits: grey or RGB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, len(rows), depth, 2 if len(clear) == 3 else 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    middle = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) + chunk(b"IDAT", body)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + chunk(b"IEND", b"")


def test_sixteen_bits_of_grey_with_a_transparent_level_are_scaled_too() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(2, axis=0)
    found = np.asarray(decode_image(png(16, ramp.astype(">u2"), (int(ramp[0, 40]),), 256)))[0, :, 0].astype(int)
    assert found[40] == 255
    others = np.arange(256) != 40
    np.testing.assert_allclose(found[others], np.arange(256)[others], atol=1)


def test_sixteen_bits_of_colour_with_a_transparent_colour() -> None:
    rows = np.zeros((1, 3, 3), dtype=np.uint16)
    rows[0, 1], rows[0, 2] = (1000, 2000, 3000), (232, 208, 184)  # of the second, what 8 low bits of the first are
    found = np.asarray(decode_image(png(16, rows.astype(">u2"), (1000, 2000, 3000), 3)))[0]
    assert found.tolist() == [[0, 0, 0], [255, 255, 255], [0, 0, 0]]


def test_four_bits_of_grey_with_a_transparent_level() -> None:
    found = np.asarray(decode_image(png(4, np.array([[0x5A]], dtype=np.uint8), (10,), 2)))[0, :, 0]
    assert found.tolist() == [85, 255]


def test_damage_beside_the_pixels_is_no_warning_of_a_library(recwarn: pytest.WarningsRecorder) -> None:
    junk = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40))
    picture = read_picture(encoded(BLOCKS, "JPEG", exif=junk))
    assert picture.image.size == BLOCKS.size
    assert picture.profile_problem == ""
    assert picture.damage.startswith("is damaged beside its pixels (Corrupt EXIF data")
    assert len(recwarn) == 0
