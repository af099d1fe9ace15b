"""What would make a set better: told once, in a sentence, and never in the way of training."""

import random
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import ExifTags, Image, ImageFilter
from subject_folders import examined, fill, found, good, manifest, photo

from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.dataset.doctor import Needs, check

REX = unseen_identity(7)


def scenes(count: int, **same: object) -> dict[str, Image.Image]:
    rng = random.Random(4)
    return {f"{n}.png": render(replace(random_scene(REX, rng), **same), 128) for n in range(count)}


def said(report, id: str) -> list[str]:  # noqa: A002
    return [finding.message for finding in report.findings if finding.id == id]


@pytest.mark.parametrize("background", ["beach", "grass", "night", "sea"])
def test_one_background(tmp_path, background) -> None:
    report = examined(tmp_path, scenes(6, background=background))
    assert found(report) == [("D036", "info", None)]
    assert said(report, "D036") == [
        "all 6 photographs of rex have one background; a few elsewhere let the adapter tell rex from what is around it"
    ]
    assert not report.errors


def test_one_picture_elsewhere_is_enough(tmp_path) -> None:
    files = scenes(5, background="grass")
    assert found(examined(tmp_path, {**files, "5.png": scenes(1, background="night")["0.png"]})) == []


def test_few_are_not_judged(tmp_path) -> None:
    assert found(examined(tmp_path, scenes(3, background="grass"))) == [("D001", "warn", None)]


def test_the_same_cut_out_before_many_backgrounds(tmp_path) -> None:
    whole = scenes(1)["0.png"].resize((128, 128))
    files = {}
    for n, place in enumerate(good(5, seed=3).values()):
        picture = place.resize((128, 128))
        picture.paste(whole.crop((24, 24, 104, 104)), (24, 24))
        files[f"{n}.png"] = picture
    report = examined(tmp_path, files)
    assert found(report) == [("D037", "info", None)]
    assert said(report, "D037")[0].startswith("all 5 photographs show rex from one side and at one size; a few from")


def test_turning_around_is_many_views(tmp_path) -> None:
    assert found(examined(tmp_path, scenes(6))) == []


def test_nearly_one_picture_is_told_once(tmp_path) -> None:
    report = examined(tmp_path, {f"{n}.png": photo(1, 48 + n, 48 + n) for n in range(5)})
    assert {one.id for one in report.findings} == {"D006", "D010"}


def test_a_blurred_photograph(tmp_path) -> None:
    rng = random.Random(0)
    files = {f"{n}.png": render(random_scene(REX, rng), 400) for n in range(5)}
    files["3.png"] = files["3.png"].filter(ImageFilter.GaussianBlur(4))
    report = examined(tmp_path, files)
    assert found(report) == [("D034", "warn", "3.png")]
    assert said(report, "D034") == ["3.png is blurred; a sharp one teaches detail, blur is learned too"]
    assert len(report.images) == 5


def telephone(exif: Image.Exif) -> bytes:
    shot = Image.new("RGB", (1170, 2532), "black")
    shot.paste(scenes(1)["0.png"].resize((1170, 1170)), (0, 700))
    stream = BytesIO()
    shot.save(stream, "PNG", exif=exif)
    return stream.getvalue()


def test_a_screenshot_and_not_what_a_camera_took(tmp_path) -> None:
    camera = Image.Exif()
    camera[ExifTags.Base.Make] = "a maker"
    shots = {"shot.png": telephone(Image.Exif()), "taken.png": telephone(camera)}
    report = examined(tmp_path, {**good(), **shots})
    assert [finding.file for finding in report.findings if finding.id == "D035"] == ["shot.png"]
    assert said(report, "D035")[0].startswith("shot.png looks like a screenshot, of a screen's size and with bars")


def test_pictures_below_the_trained_size(tmp_path) -> None:
    sides = {"a.png": 100, "b.png": 64, "c.png": 63, "d.png": 33, "e.png": 31}
    fill(tmp_path / "rex", {name: photo(n, side, 100) for n, (name, side) in enumerate(sides.items())})
    [report] = check(manifest({"images": "rex", "class": "dog"}), tmp_path, Needs(resolution=64))
    low = [one for one in report.findings if one.id == "D004"]
    assert [(one.level, one.file) for one in low] == [("warn", "e.png"), ("info", "c.png")]
    assert low[1].message.startswith(
        "2 pictures are smaller than the 64 pixels a side that are trained: c.png, d.png; "
    )
