"""The dataset doctor, on folders that are wrong in one way each."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from subject_folders import Files, examined, fill, found, good, manifest, photo

from lorafleet_jobs.dataset.doctor import check
from lorafleet_jobs.dataset.findings import Finding
from lorafleet_jobs.dataset.subjects import slug
from lorafleet_jobs.image_formats import READ
from lorafleet_jobs.images import MAX_BYTES


def test_a_good_subject(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), **{f"{n:02}.txt": f"TOK  dog number {n}\n" for n in range(4)}})
    assert (report.name, len(report.images), report.findings) == ("rex", 4, ())
    assert report.images[1].caption == "TOK dog number 1"
    assert report.as_json() == {"name": "rex", "images": 4, "findings": []}


def test_no_captions_is_only_information(tmp_path: Path) -> None:
    report = examined(tmp_path, good())
    assert found(report, but="") == [("D010", "info", None)]
    assert "4 of 4 images have no caption" in report.findings[0].message


HTML = "<!doctype html><title>not found</title>"


def png(image: Image.Image, tmp_path: Path) -> bytes:
    image.save(tmp_path / "scratch.png")
    return (tmp_path / "scratch.png").read_bytes()


@pytest.mark.parametrize(
    ("make", "id", "said"),
    [
        (
            lambda tmp: HTML,
            "D002",
            f"bad.jpg does not hold a {READ}, whatever its name says; replace it",
        ),
        (lambda tmp: b"", "D002", "bad.jpg is empty; copy it anew or remove it"),
        (lambda tmp: png(photo(1), tmp)[:900], "D002", "bad.jpg is damaged or cut short"),
        (
            lambda tmp: png(Image.new("1", (9000, 9000)), tmp),
            "D003",
            "bad.jpg has 81 megapixels (9000 x 9000); at most 65",
        ),
        (lambda tmp: png(Image.new("1", (20000, 4)), tmp), "D003", "bad.jpg is 20000 x 4; a side of at most 16384"),
    ],
)
def test_a_bad_file_is_left_out_while_good_ones_remain(
    tmp_path: Path, make: Callable[[Path], bytes | str], id: str, said: str  # noqa: A002
) -> None:  # fmt: skip
    bad = make(tmp_path)
    report = examined(tmp_path, {**good(), "bad.jpg": bad})
    assert (found(report), len(report.images), report.errors) == ([(id, "warn", "bad.jpg")], 4, ())
    assert said in report.findings[0].message
    assert report.findings[0].message.endswith("; it is left out")

    fill(tmp_path / "alone", {"bad.jpg": bad})
    [report] = check(manifest({"images": "alone", "class": "dog"}), tmp_path)
    assert found(report) == [(id, "error", "bad.jpg"), ("D001", "error", None)]
    assert "no readable image in 'alone'; put 4 to 30" in report.errors[1].message


def test_a_file_with_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    folder = fill(tmp_path / "rex", good())
    with (folder / "bad.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    [report] = check(manifest({"images": "rex", "class": "dog"}), tmp_path)
    assert found(report) == [("D003", "warn", "bad.jpg")]
    assert report.findings[0].message == "bad.jpg has 100.0 MB; at most 100 are read, save it smaller; it is left out"


@pytest.mark.parametrize("suffix", ["HEIC", "heif", "hif", "avif", "tif", "bmp", "gif", "mpo", "jpe", "apng"])
def test_what_phones_and_cameras_write_is_trained_on(tmp_path: Path, suffix: str) -> None:
    format = {"heic": "HEIF", "hif": "HEIF", "tif": "TIFF", "jpe": "JPEG", "apng": "PNG"}.get(suffix.lower(), suffix)  # noqa: A001
    stream = BytesIO()
    photo(80).save(stream, format.upper())
    report = examined(tmp_path, {**good(), f"IMG_1.{suffix}": stream.getvalue(), "IMG_1.txt": "a TOK dog"})
    assert (found(report), report.images[-1].file, report.images[-1].caption) == ([], f"IMG_1.{suffix}", "a TOK dog")


def test_transparency_is_told_once(tmp_path: Path) -> None:
    layers = [photo(seed) for seed in (80, 81)]
    for layer in layers:
        layer.putalpha(Image.new("L", layer.size, 40))
    report = examined(tmp_path, {**good(), "x.png": layers[0], "y.png": layers[1]})
    assert found(report) == [("D033", "info", "x.png")]
    assert report.findings[0].message == (
        "2 pictures are transparent in places, where white is trained: x.png, y.png; "
        "save on another colour if white is not meant"
    )


@pytest.mark.parametrize(
    ("count", "level"), [(0, "error"), (1, "warn"), (3, "warn"), (4, None), (30, None), (31, "info")]
)
def test_how_many_images_are_enough(tmp_path: Path, count: int, level: str | None) -> None:
    report = examined(tmp_path, good(count))
    assert found(report) == ([("D001", level, None)] if level else [])


def test_a_profile_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.jpg"
    photo(70).save(scratch, icc_profile=b"no profile")
    report = examined(tmp_path, {**good(), "x.jpg": scratch.read_bytes()})
    assert found(report) == [("D027", "warn", "x.jpg")]
    assert report.findings[0].message.startswith("x.jpg has a colour profile that cannot be read")
    assert len(report.images) == 5


def test_damage_beside_the_pixels_is_information(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.jpg"
    photo(71).save(scratch, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40)))
    assert found(examined(tmp_path, {**good(), "x.jpg": scratch.read_bytes()})) == [("D027", "info", "x.jpg")]


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_frames_of_an_animation_are_told(tmp_path: Path, suffix: str) -> None:
    scratch = tmp_path / f"x.{suffix}"
    photo(90).save(scratch, save_all=True, append_images=[photo(91), photo(92)], lossless=True)
    report = examined(tmp_path, {**good(), scratch.name: scratch.read_bytes()})
    assert found(report) == [("D028", "info", scratch.name)]
    assert f"{scratch.name} is an animation of 3 frames; the first is used" in report.findings[0].message


def test_copies_do_not_count(tmp_path: Path) -> None:
    files = good(3)
    report = examined(tmp_path, {**files, "zz.png": files["00.png"]})
    assert found(report) == [("D001", "warn", None), ("D005", "warn", "zz.png")]
    assert "zz.png is the same picture as 00.png" in report.findings[1].message


def test_nearly_the_same_picture(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "zz.jpg": photo(2)})
    assert found(report) == [("D006", "warn", "zz.jpg")]


def test_many_of_one_picture_are_one_finding(tmp_path: Path) -> None:
    files = good()
    copies = {f"c{i}.png": files["00.png"] for i in range(9)}
    report = examined(tmp_path, {**files, **copies, "zz.jpg": photo(2)})
    messages = {finding.id: finding.message for finding in report.findings}
    assert len(report.findings) == len(messages)
    assert messages["D005"].startswith("c0.png, c1.png, c2.png")
    assert messages["D005"].endswith("c7.png and 1 more are the same picture as 00.png; keep one of them")
    assert messages["D006"].endswith("nearly the same picture as 02.png; different views teach more")


def test_a_series_of_like_pictures_is_told_once(tmp_path: Path) -> None:
    series = {f"{n}.png": photo(80).point(lambda level, n=n: min(255, level + n)) for n in range(6)}
    assert found(examined(tmp_path, dict(series))) == [("D006", "warn", "1.png")]


def test_sizes_and_shapes(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "low.png": photo(50, 15, 16), "long.png": photo(51, 97, 48)})
    assert found(report) == [("D009", "warn", "long.png"), ("D004", "warn", "low.png")]


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = fill(tmp_path / "rex", good())
    photo(60).save(tmp_path / "secret.png")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "00.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "inside.png").symlink_to(folder / "01.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    [report] = check(manifest({"images": "rex", "class": "dog"}), tmp_path)
    assert [(f.id, f.file) for f in report.errors] == [("D015", "link.png"), ("D015", "00.txt")]
    assert ("D002", "warn", "loop.png") in found(report)
    assert all(image.caption is None for image in report.images)


def test_a_missing_folder_suggests_a_near_one(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "rex", good())
    (tmp_path / "file").write_text("")
    where = ["photos/rexx", "nowhere/at/all", "file", "a\0b", "n" * 5000]
    reports = check(manifest(*({"images": w, "class": "dog", "name": f"s{n}"} for n, w in enumerate(where))), tmp_path)
    assert [[f.id for f in report.errors] for report in reports] == [["D020"]] * 5
    said = [report.errors[0].message for report in reports]
    assert "no folder 'photos/rexx'" in said[0]
    assert "did you mean 'photos/rex'?" in said[0]
    assert "paths are relative to the manifest" in said[1]
    assert "'file' is a file; give the folder" in said[2]
    assert r"no folder 'a\x00b'" in said[3]


@pytest.mark.parametrize("noun", [{}, {"class": " "}])
def test_a_missing_class_is_an_error(tmp_path: Path, noun: dict[str, object]) -> None:
    fill(tmp_path / "rex", good())
    [report] = check(manifest({"images": "rex", **noun}), tmp_path)
    assert found(report) == [("D016", "error", None)]
    assert "as in class: dog" in report.findings[0].message


def test_names_come_from_folders_and_must_differ(tmp_path: Path) -> None:
    for n, name in enumerate(["Rex", "rex!", "Mimi (cat)", "???"]):
        fill(tmp_path / "all" / name, good(seed=n))
    reports = check(manifest({"glob": "all/*", "class": "pet"}, {"glob": "none/*", "class": "pet"}), tmp_path)
    assert [(r.name, [f.id for f in r.errors]) for r in reports] == [
        ("all/???", ["D019"]), ("mimi-cat", []), ("rex", ["D019"]), ("rex", ["D019"]), ("none/*", ["D020"]),
    ]  # fmt: skip
    assert "2 subjects are called 'rex'; give each its own name" in reports[2].errors[0].message
    assert "glob 'none/*' matches no folder" in reports[4].errors[0].message


def test_slugs_are_names() -> None:
    assert [slug(s) for s in ("Grandma's Cat (2)", "Ünïcode", "..", "猫", "a" * 99)] == [
        "grandma-s-cat-2", "unicode", "", "", "a" * 64,
    ]  # fmt: skip


def test_two_subjects_that_share_pictures(tmp_path: Path) -> None:
    fill(tmp_path / "a", good(seed=1))
    fill(tmp_path / "b", {**good(seed=2), "same.png": photo(101)})
    fill(tmp_path / "c", good(seed=3))
    reports = check(manifest(*({"images": name, "class": "dog"} for name in "abc")), tmp_path)
    assert [found(report) for report in reports] == [[("D018", "warn", None)]] * 2 + [[]]
    assert "shares 1 picture with 'b'" in reports[0].findings[-1].message


def test_every_message_is_one_line_of_json(tmp_path: Path) -> None:
    files: Files = {**good(), "new\nline.jpg": HTML, "\udcff.jpg": HTML}
    report = examined(tmp_path, files)
    assert [f.file for f in report.findings if f.id == "D002"] == ["new line.jpg", "\\udcff.jpg"]
    assert all("\n" not in f.message for f in report.findings)
    assert json.loads(json.dumps(report.as_json()))["images"] == 4
    assert Finding.model_validate(report.findings[0].model_dump()) == report.findings[0]


def test_the_caption_of_a_picture_that_is_left_out_is_told(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "x.jpg": HTML, "x.txt": "TOK"})
    assert found(report) == [("D002", "warn", "x.jpg"), ("D030", "info", None)]
    assert report.findings[1].message == "captions not used, their images are not trained on: x.jpg (x.txt)"
