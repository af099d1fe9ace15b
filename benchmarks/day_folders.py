"""Twenty-four folders of photographs as people have them, made of the toy world's pictures.

Knows what phones, cameras, other trainers and carelessness leave in folders; refuses to know what becomes of it.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from lorafleet.toy.render import render
from lorafleet.toy.world import BACKGROUNDS, random_scene, unseen_identity
from lorafleet_jobs.colours import coded_profile

SIDE = 160
ORIENTATION = 0x0112
DISPLAY_P3 = coded_profile(primaries=12, transfer=13)[0]
RAW = b"II*\0\x10\0\0\0CR\x02\0" + bytes(5000)  # how a Canon's begins
VIDEO = b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(5000)


@dataclass(frozen=True)
class Photo:
    """One picture and where it was taken, as a caption ends."""

    image: Image.Image
    place: str


Writer = Callable[[Path, list[Photo]], None]


def photos(index: int, noun: str, count: int = 6, side: int = SIDE) -> list[Photo]:
    """Pictures of one subject that no base has seen."""
    identity, rng = unseen_identity(100 + index, noun), random.Random(f"day-{index}")
    scenes = [random_scene(identity, rng) for _ in range(count)]
    return [Photo(render(scene, side), BACKGROUNDS[scene.background]) for scene in scenes]


def saved(suffix: str, name: str = "IMG_{:04d}", **options: object) -> Writer:
    """Writes each photo as one file of a format."""

    def write(folder: Path, taken: list[Photo]) -> None:
        for number, photo in enumerate(taken, 1):
            photo.image.save(folder / f"{name.format(number)}{suffix}", **options)

    return write


def live_photos(folder: Path, taken: list[Photo]) -> None:
    """As an iPhone exports them: HEIC, each with a second of video."""
    for number, photo in enumerate(taken, 1):
        pillow_heif.from_pillow(photo.image).save(folder / f"IMG_{number:04d}.HEIC", quality=90)
        (folder / f"IMG_{number:04d}.MOV").write_bytes(VIDEO)


def turned(folder: Path, taken: list[Photo]) -> None:
    """The camera was held upright: pixels lie on their side, EXIF says how to turn them."""
    for number, photo in enumerate(taken, 1):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        photo.image.rotate(90, expand=True).save(folder / f"DSC{number:05d}.JPG", exif=exif, quality=92)


def two_eyed(folder: Path, taken: list[Photo]) -> None:
    """MPO: two views in one file."""
    for number, photo in enumerate(taken, 1):
        photo.image.save(folder / f"P{number:07d}.MPO", "MPO", save_all=True, append_images=[photo.image])


def sixteen_bits(folder: Path, taken: list[Photo]) -> None:
    """TIFF of 16 bits in grey, as scanners write."""
    for number, photo in enumerate(taken, 1):
        grey = np.asarray(photo.image.convert("L"), dtype=np.uint16) * 257
        Image.fromarray(grey).save(folder / f"scan{number}.tif")


def for_print(folder: Path, taken: list[Photo]) -> None:
    """CMYK."""
    for number, photo in enumerate(taken, 1):
        photo.image.convert("CMYK").save(folder / f"print_{number}.jpg", quality=95)


def cut_out(folder: Path, taken: list[Photo]) -> None:
    """Transparent around the subject."""
    for number, photo in enumerate(taken, 1):
        mask = Image.new("L", photo.image.size, 0)
        mask.paste(255, (20, 20, SIDE - 20, SIDE - 20))
        photo.image.putalpha(mask)
        photo.image.save(folder / f"cutout {number}.png")


def animated(folder: Path, taken: list[Photo]) -> None:
    """Each a GIF of all."""
    for number, photo in enumerate(taken, 1):
        others = [other.image for other in taken if other is not photo]
        photo.image.save(folder / f"{number}.gif", save_all=True, append_images=others)


def raw_only(folder: Path, taken: list[Photo]) -> None:
    """Straight from the camera."""
    for number in range(1, len(taken) + 1):
        (folder / f"_MG_{number:04d}.CR2").write_bytes(RAW)


def one_cut_short(folder: Path, taken: list[Photo]) -> None:
    """A download broke off."""
    saved(".jpg")(folder, taken)
    file = folder / "IMG_0002.jpg"
    file.write_bytes(file.read_bytes()[:900])


def burst(folder: Path, taken: list[Photo]) -> None:
    """Six times the same moment."""
    rng = np.random.default_rng(0)
    for number in range(6):
        noise = rng.integers(-2, 3, (SIDE, SIDE, 3))
        pixels = np.clip(np.asarray(taken[0].image, dtype=int) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"burst_{number}.jpg", quality=92)


def captioned(text: Callable[[Photo], str], suffix: str = ".txt", image: str = ".jpg") -> Writer:
    """Beside each photo a file with a caption."""

    def write(folder: Path, taken: list[Photo]) -> None:
        saved(image)(folder, taken)
        for number, photo in enumerate(taken, 1):
            (folder / f"IMG_{number:04d}{suffix}").write_text(text(photo) + "\n")

    return write


def excel_table(folder: Path, taken: list[Photo]) -> None:
    """Captions in a table as Excel saves it in half of Europe: semicolons, a byte order mark."""
    saved(".jpg")(folder, taken)
    rows = [f"IMG_{number:04d}.jpg;a photo of TOK mug {photo.place}" for number, photo in enumerate(taken, 1)]
    (folder / "metadata.csv").write_text("file_name;caption\n" + "\n".join(rows) + "\n", encoding="utf-8-sig")


def json_lines(folder: Path, taken: list[Photo]) -> None:
    """Captions as Hugging Face's image folders have them."""
    saved(".webp")(folder, taken)
    rows = [
        {"file_name": f"IMG_{n:04d}.webp", "text": f"a photo of TOK boat {p.place}"} for n, p in enumerate(taken, 1)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_litter(folder: Path, taken: list[Photo]) -> None:
    """What Windows, macOS and others leave."""
    saved(".JPEG")(folder, taken)
    (folder / "Thumbs.db").write_bytes(struct.pack("<Q", 0xE11AB1A1E011CFD0))
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "readme.docx").write_bytes(b"PK\3\4")


def nothing(folder: Path, taken: list[Photo]) -> None:
    """An empty folder."""


FOLDERS: Sequence[tuple[str, str, Writer]] = (
    ("mug blue (iPhone)", "mug", live_photos),
    ("boat", "boat", saved(".avif")),
    ("house of Ann", "house", turned),
    ("fish 3D", "fish", two_eyed),
    ("star-scan", "star", sixteen_bits),
    ("tree for print", "tree", for_print),
    ("car-P3", "car", saved(".jpg", icc_profile=DISPLAY_P3, quality=95)),
    ("bottle cut out", "bottle", cut_out),
    ("mushroom", "mushroom", animated),
    ("rex the dog", "dog", captioned(lambda photo: f"a photo of TOK dog {photo.place}", image=".webp")),
    ("10_sks dog", "dog", captioned(lambda photo: f"a photo of sks dog {photo.place}")),
    ("mug-table", "mug", excel_table),
    ("boat hf", "boat", json_lines),
    ("house captions", "house", captioned(lambda photo: f"a photo of TOK house {photo.place}", ".caption")),
    ("fish tags", "fish", captioned(lambda photo: f"TOK, fish, solo, {photo.place}, >_<")),
    ("tree raw", "tree", raw_only),
    ("tree", "tree", one_cut_short),
    ("car burst", "car", burst),
    ("tiny bottle", "bottle", saved(".png")),
    ("IMG_2024", "dog", saved(".JPG")),
    ("dog tiff", "dog", saved(".tiff")),
    ("mug-bmp", "mug", saved(".bmp")),
    ("house litter", "house", with_litter),
    ("to do", "star", nothing),
)  # fmt: skip

EMPTY = 2
"""How many of them hold no picture that is read."""


def write_folders(root: Path) -> None:
    """All of them, under `root`."""
    for index, (name, noun, write) in enumerate(FOLDERS):
        folder = root / name
        folder.mkdir(parents=True)
        write(folder, photos(index, noun, side=24 if name == "tiny bottle" else SIDE))
