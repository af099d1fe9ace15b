"""The dataset doctor on folders: what in them is no picture, and what is left out by name."""

from io import BytesIO
from pathlib import Path

import pytest
from subject_folders import examined, fill, found, good, manifest, photo

from lorafleet_jobs.dataset.doctor import SubjectReport, check
from lorafleet_jobs.dataset.listing import list_folder


def test_formats_that_are_not_read_are_named_and_not_passed_over(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "IMG_1.HEIC": b"\0\0\0\x18ftypheic", "a.jxl": b"\xff\x0a", "a.psd": "8BPS"})
    assert found(report) == [("D002", "warn", name) for name in ("IMG_1.HEIC", "a.jxl", "a.psd")]
    assert [finding.message for finding in report.findings if finding.id == "D002"] == [
        "IMG_1.HEIC is damaged or cut short (its header cannot be read); replace it or remove it; it is left out",
        "a.jxl is a JPEG XL picture, which is not read; save as JPEG; it is left out",
        "a.psd is a Photoshop file, which is not read; save as JPEG; it is left out",
    ]


@pytest.mark.parametrize("suffix", ["CR2", "CR3", "NEF", "ARW", "DNG", "RAF", "ORF", "RW2", "nef"])
def test_raw_files_say_what_to_do(tmp_path: Path, suffix: str) -> None:
    stream = BytesIO()
    photo(80).save(stream, "TIFF")  # as which many of them begin
    raws = {f"IMG_{n}.{suffix}": stream.getvalue() for n in range(3)}
    report = examined(tmp_path, {**good(), **raws})
    assert (found(report), len(report.images)) == ([("D002", "warn", f"IMG_0.{suffix}")], 4)
    names = ", ".join(raws)
    assert report.findings[-1].message == (
        f"not read: 3 RAW files: {names}; export what is meant to be trained as JPEG"
    )
    fill(tmp_path / "alone", raws)
    [alone] = check(manifest({"images": "alone", "class": "dog"}), tmp_path)
    assert alone.errors[0].message == f"no readable image in 'alone', only 3 RAW files: {names}; export them as JPEG"


def test_the_raw_of_a_picture_and_videos_are_left_out_quietly(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "00.DNG": b"II*\0", "00.MOV": b"x", "clip.mp4": b"x"})
    assert found(report) == [("D028", "info", None)] * 2
    assert [finding.message for finding in report.findings if finding.id == "D028"] == [
        "left out as the RAW of pictures beside them: 00.DNG",
        "left out as 2 videos: 00.MOV, clip.mp4; save a frame as JPEG to train on it",
    ]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "rex",
        {".hidden.png": photo(0), ".DS_Store": b"x", "notes.md": "hi", "a.png": photo(1), "no-suffix": photo(2),
         "a-mask.png": photo(3), "lone-mask.png": photo(4)},
    )  # fmt: skip
    (folder / "below.png").mkdir()
    assert [path.name for path in list_folder(folder).images] == ["a.png", "lone-mask.png", "no-suffix"]


def left_out(report: SubjectReport) -> list[tuple[str, str]]:
    return [(f.level, f.message) for f in report.findings if f.id == "D028"]


def test_backups_and_unfinished_copies_are_left_out_by_name(tmp_path: Path) -> None:
    backup = b"\x89PNG\r\n\x1a\n"
    report = examined(tmp_path, {**good(), "00.png~": backup, "00.png.bak": backup, "00.png.part": b"\x89PN"})
    assert [image.file for image in report.images] == ["00.png", "01.png", "02.png", "03.png"]
    [(level, message)] = left_out(report)
    assert level == "info"
    assert message.startswith("left out as backups or unfinished copies: 00.png.bak, 00.png.part, 00.png~;")


def test_whatever_else_lies_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "rex", {**good(), "notes.md": "hi", ".hidden.png": photo(81), "00.xmp": "<x/>", "._a": b""}
    )
    fill(folder / "raw", {"1.png": photo(82), "2.txt": "x"})
    (folder / "__MACOSX").mkdir()
    [report] = check(manifest({"images": "rex", "class": "dog"}), tmp_path)
    assert [message.partition(";")[0] for _, message in left_out(report)] == [
        "left out as hidden: .hidden.png",
        "left out as neither images nor captions: 00.xmp, notes.md",
        "folders in it are not looked into: raw (1 image)",
    ]


def test_what_systems_leave_is_no_subject_and_files_beside_the_folders_of_a_glob_are_named(tmp_path: Path) -> None:
    for name in ("rex", "mimi", "__MACOSX/rex", "@eaDir", ".hidden"):
        fill(tmp_path / "photos" / name, good(seed=len(name)))
    fill(tmp_path / "photos" / "x", {})
    (tmp_path / "photos" / "x").rmdir()
    for name in ("stray.jpg", "list.txt", ".DS_Store"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    reports = check(manifest({"glob": "photos/*", "class": "dog"}, {"glob": "photos/*.jpg", "class": "dog"}), tmp_path)
    assert [report.name for report in reports] == ["mimi", "rex", "photos/*.jpg"]
    beside = "beside the folders of the glob and of no subject: photos/list.txt, photos/stray.jpg; move them into one"
    assert left_out(reports[0]) == [("warn", beside)]
    assert left_out(reports[1]) == []
    [problem] = reports[2].errors
    assert problem.message.startswith("glob 'photos/*.jpg' matches no folder, only files (photos/stray.jpg); ")


def test_a_folder_without_a_name_and_one_with_folders_say_what_can_be_done(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "小猫", good())
    fill(tmp_path / "img" / "10_sks dog", good(seed=1))
    reports = check(
        manifest({"glob": "photos/*", "class": "cat"}, {"images": "photos/小猫", "class": "cat"}, {"images": "img",
        "class": "dog"}), tmp_path
    )  # fmt: skip
    said = [report.errors[0].message for report in reports]
    assert said[0] == (
        "no name can be made of folder 'photos/小猫'; rename it, or list it by itself with images: and name:"
    )
    assert said[1] == "no name can be made of folder 'photos/小猫'; add name: to the subject"
    assert said[2].startswith("no readable image in 'img', but it holds a folder with images: 10_sks dog (4 images); ")
    assert 'give glob: "img/*" for a subject each, or images: "img/10_sks dog"' in said[2]
    assert "recipe.repeats: 10" in said[2]


def test_a_folder_of_folders_says_how_each_becomes_a_subject(tmp_path: Path) -> None:
    for n in range(18):
        fill(tmp_path / "Photos" / f"cat {n:02}", good(1, seed=n))
    (tmp_path / "deep" / "Album" / "rex").mkdir(parents=True)
    reports = check(manifest({"images": "Photos/", "class": "cat"}, {"images": "deep", "class": "dog"}), tmp_path)
    said = [report.errors[0].message for report in reports]
    assert said[0].startswith("no readable image in 'Photos/', but it holds 18 folders with images: cat 00 (1 image), ")
    assert "cat 07 (1 image) and 10 more; " in said[0]
    assert said[0].endswith('give glob: "Photos/*" for a subject each, or images: "Photos/cat 00"')
    assert said[1] == "no readable image in 'deep', only 1 folder: Album; give the folder that holds the images"


@pytest.mark.parametrize(
    ("name", "told"),
    [("10_sks dog", True), ("1_rex", True), ("2024_summer", False), ("01_rex", False), ("101_PANA", False),
     ("10_2", False), ("rex", False)],
)  # fmt: skip
def test_a_folder_named_for_kohya_says_what_its_number_means(tmp_path: Path, name: str, told: bool) -> None:
    fill(tmp_path / name, good())
    [report] = check(manifest({"images": name, "class": "dog", "name": "rex"}), tmp_path)
    assert found(report) == ([("D032", "info", None)] if told else [])
    if name == "10_sks dog":
        assert report.findings[0].message == (
            "folder '10_sks dog' is named as kohya's trainers read it, 10 repeats of 'sks dog'; here a name says "
            "nothing: set recipe.repeats: 10, and class: or instance_prompt: in words"
        )


@pytest.mark.parametrize(
    "name",
    ["a.jpg~", "a.jpg.bak", "a.jpg.part", "a.jpg.tmp", "._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir"],
)
def test_backups_and_what_systems_leave_are_no_pictures(tmp_path: Path, name: str) -> None:
    eadir = name == "@eaDir"
    folder = fill(tmp_path / "rex", {**good(), **({} if eadir else {name: b"\xff\xd8\xff"})})
    if eadir:
        fill(folder / name, {"a.jpg": photo(80)})
    listing = list_folder(folder)
    assert len(listing.images) == 4
    assert [path.name for path in listing.leftovers] == ([name] if name.startswith("a.") else [])
    assert (listing.others, listing.hidden, listing.folders) == ((), (), ())
