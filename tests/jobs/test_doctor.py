"""The dataset doctor, on folders that are wrong in one way each."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorafleet.config import Manifest
from lorafleet_jobs.dataset import find_images, slug
from lorafleet_jobs.doctor import Needs, SubjectReport, check
from lorafleet_jobs.findings import Finding

Files = dict[str, bytes | str | Image.Image]


def photo(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, Image.Image):
            content.save(folder / name, None if Path(name).suffix else "PNG")
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def good(count: int = 4, seed: int = 0) -> Files:
    return {f"{n:02}.png": photo(seed * 100 + n) for n in range(count)}


def manifest(*subjects: dict[str, object]) -> Manifest:
    return Manifest.model_validate({"name": "m", "subjects": list(subjects)})


def examined(tmp_path: Path, files: Files, **spec: object) -> SubjectReport:
    fill(tmp_path / "rex", files)
    [report] = check(manifest({"images": "rex", "class": "dog", **spec}), tmp_path, Needs(resolution=32))
    return report


def found(report: SubjectReport, *, but: str = "D010") -> list[tuple[str, str, str | None]]:
    return [(f.id, f.level, f.file) for f in report.findings if f.id not in but]


def test_a_good_subject(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), **{f"{n:02}.txt": f"TOK dog\n number {n}" for n in range(4)}})
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
        (lambda tmp: HTML, "D002", "bad.jpg does not hold a JPEG, PNG or WEBP, whatever its name says; replace it"),
        (lambda tmp: b"", "D002", "bad.jpg does not hold a JPEG"),
        (lambda tmp: png(photo(1), tmp)[:900], "D002", "bad.jpg is damaged or cut short"),
        (
            lambda tmp: png(Image.new("1", (9000, 9000)), tmp),
            "D003",
            "bad.jpg has 81 megapixels (9000 x 9000); at most 50",
        ),
        (lambda tmp: png(Image.new("1", (20000, 4)), tmp), "D003", "bad.jpg is 20000 x 4; a side of at most 16384"),
        (lambda tmp: bytes(25_000_001), "D003", "bad.jpg has 25.0 MB; at most 25 are read"),
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


def test_formats_that_are_not_read_are_named_and_not_passed_over(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "IMG_1.HEIC": b"\0\0\0\x18ftypheic", "a.gif": "GIF89a"})
    assert found(report) == [("D002", "warn", "IMG_1.HEIC"), ("D002", "warn", "a.gif")]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "rex",
        {".hidden.png": photo(0), ".DS_Store": b"x", "notes.md": "hi", "a.png": photo(1), "no-suffix": photo(2),
         "a-mask.png": photo(3), "lone-mask.png": photo(4)},
    )  # fmt: skip
    (folder / "below.png").mkdir()
    assert [path.name for path in find_images(folder)] == ["a.png", "lone-mask.png", "no-suffix"]


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


def test_copies_do_not_count(tmp_path: Path) -> None:
    files = good(3)
    report = examined(tmp_path, {**files, "zz.png": files["00.png"]})
    assert found(report) == [("D001", "warn", None), ("D005", "warn", "zz.png")]
    assert "zz.png is the same picture as 00.png" in report.findings[1].message


def test_nearly_the_same_picture(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "zz.jpg": photo(2)})
    assert found(report) == [("D006", "warn", "zz.jpg")]


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
        ("all/*", ["D019"]), ("mimi-cat", []), ("rex", ["D019"]), ("rex", ["D019"]), ("none/*", ["D020"]),
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


@pytest.mark.parametrize(
    ("files", "column"),
    [
        ({"metadata.jsonl": '{"file_name": "00.png", "prompt": "TOK  dog"}\n\n{"file_name": "01.png"}\n'}, "prompt"),
        ({"metadata.jsonl": '{"file_name": "00.png", "text": "TOK dog"}'}, "text"),
        ({"metadata.csv": 'file_name,prompt\n00.png,"TOK\ndog"\n'}, "prompt"),
        ({"metadata.csv": "\ufefffile_name,text,x\r\n00.png,TOK dog,1\r\n"}, "text"),
        ({"metadata.csv": "file_name,prompt\n00.png,lost\n", "00.txt": "TOK dog"}, "prompt"),
        ({"metadata.csv": "broken", "metadata.jsonl": '{"file_name": "00.png", "prompt": "TOK dog"}'}, "prompt"),
    ],
)
def test_captions_are_found(tmp_path: Path, files: Files, column: str) -> None:
    report = examined(tmp_path, {**good(), **files}, caption_column=column)
    assert [image.caption for image in report.images] == ["TOK dog", None, None, None]
    assert found(report) == []


@pytest.mark.parametrize(
    ("files", "id", "level", "said"),
    [
        ({"metadata.jsonl": '{"file_name": "00.png", "text": "TOK"}'}, "D021", "error",
         "metadata.jsonl has no column 'prompt', only file_name, text; set caption_column"),
        ({"metadata.csv": "name,prompt\na,b\n"}, "D021", "error",
         "metadata.csv has no column 'file_name', only name, prompt"),
        ({"metadata.jsonl": '{"file_name": "00.png", "prompt": "TOK"}\n{]'}, "D022", "error",
         "metadata.jsonl line 2 is not JSON"),
        ({"metadata.jsonl": "[1]"}, "D022", "error", "metadata.jsonl line 1 is not a JSON object"),
        ({"metadata.jsonl": '{"file_name": "00.png", "prompt": 5}'}, "D022", "error", "the caption is 5; give text"),
        ({"metadata.jsonl": '{"file_name": "../x.png", "prompt": "TOK"}'}, "D022", "warn",
         "names '../x.png', which is no image"),
        ({"metadata.jsonl": '{"file_name": [], "prompt": "TOK"}'}, "D022", "warn", "names []"),
        ({"00.txt": b"\xff\xfe"}, "D022", "error", "00.txt is not UTF-8"),
        ({"00.txt": "a TOK <|endoftext|> dog"}, "D014", "error", "holds '<|endoftext|>', which is reserved"),
        ({"00.txt": "a TOK <dog-rex>"}, "D014", "error", "holds '<dog-rex>'"),
        ({"00.txt": "a TOK \x1b[2J"}, "D014", "error", "holds '\\x1b'"),
        ({"00.txt": "a dog in the snow"}, "D011", "warn", "1 of 4 captions lack TOK"),
    ],
)  # fmt: skip
def test_captions_that_cannot_be_used(tmp_path: Path, files: Files, id: str, level: str, said: str) -> None:  # noqa: A002
    report = examined(tmp_path, {**good(), **files})
    assert [(f.id, f.level) for f in report.findings if f.id != "D010"] == [(id, level)]
    assert said in next(f for f in report.findings if f.id == id).message


def test_the_instance_prompt_must_hold_what_is_learned(tmp_path: Path) -> None:
    fill(tmp_path / "rex", good())
    for prompt, token, ids in [
        ("a photo of TOK dog", True, []),
        ("a photo of rex", True, ["D011"]),
        ("a photo of TOKEN", True, ["D011"]),
        ("a photo of rex", False, []),
        ("TOK <x>", True, ["D014"]),
    ]:
        spec = {"images": "rex", "class": "dog", "instance_prompt": prompt}
        [report] = check(manifest(spec), tmp_path, Needs(token=token))
        assert [f.id for f in report.errors] == ids


def test_every_message_is_one_line_of_json(tmp_path: Path) -> None:
    files: Files = {**good(), "new\nline.jpg": HTML, "\udcff.jpg": HTML}
    report = examined(tmp_path, files)
    assert [f.file for f in report.findings if f.id == "D002"] == ["new line.jpg", "\\udcff.jpg"]
    assert all("\n" not in f.message for f in report.findings)
    assert json.loads(json.dumps(report.as_json()))["images"] == 4
    assert Finding.model_validate(report.findings[0].model_dump()) == report.findings[0]
