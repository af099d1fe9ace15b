"""Masks and class images from the files to the plan: what the doctor says, and that ids depend on contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorafleet.errors import DataError
from lorafleet_jobs.intake.prepare import examine, prepare

MASKED = "{masked_loss: 0.1}"
PRIOR = "{prior: {mode: images, images: dogs}}"


def manifest(tmp_path: Path, recipe: str = "{}", masks: int = 4) -> Path:
    """Four different photos of 60 x 40, their masks, and a folder of two class images among other things."""
    for folder in ("rex", "dogs"):
        (tmp_path / folder).mkdir(exist_ok=True)
    draws = np.random.default_rng(0)
    for n in range(6):
        photo = Image.fromarray(draws.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((60, 40))
        photo.save(tmp_path / ("rex" if n < 4 else "dogs") / f"{n}.png")
        if n < masks:
            mask = Image.new("L", (60, 40))
            mask.putpixel((n, 3), 255)
            mask.save(tmp_path / "rex" / f"{n}-mask.png")
    for name, content in {".DS_Store": b"\0", "4.txt": b"a dog", ".gitattributes": b"*", "bad.jpg": b"<html>"}.items():
        (tmp_path / "dogs" / name).write_bytes(content)
    (tmp_path / "dogs" / "below").mkdir(exist_ok=True)
    path = tmp_path / "m.yaml"
    path.write_text(f"name: m\nbase: toy-sdxl\nrecipe: {recipe}\nsubjects: [{{images: rex, class: dog}}]\n")
    return path


def found(path: Path) -> list[tuple[str, str, str]]:
    [report] = examine(path).reports
    return [
        (f.id, f.level, f.message) for f in report.findings if f.id in ("D002", "D015", "D023", "D024", "D025", "D026")
    ]


def only_id(path: Path) -> str:
    [job] = prepare(path).plan.jobs
    return job.id


def test_masks_are_planned_with_their_images(tmp_path: Path) -> None:
    path = manifest(tmp_path, MASKED)
    assert found(path) == []
    [job] = prepare(path).plan.jobs
    assert [(i.file, i.mask.file if i.mask else None) for i in job.images] == [
        (f"{n}.png", f"{n}-mask.png") for n in range(4)
    ]


def test_ids_depend_on_masks_only_where_they_are_used(tmp_path: Path) -> None:
    masked, plain = only_id(manifest(tmp_path, MASKED)), only_id(manifest(tmp_path))
    Image.new("L", (60, 40), 200).save(tmp_path / "rex" / "0-mask.png")
    (tmp_path / "m.yaml").write_text((tmp_path / "m.yaml").read_text().replace("{}", MASKED))
    assert only_id(tmp_path / "m.yaml") != masked
    (tmp_path / "m.yaml").write_text((tmp_path / "m.yaml").read_text().replace(MASKED, "{}"))
    assert only_id(tmp_path / "m.yaml") == plain
    assert prepare(tmp_path / "m.yaml").plan.jobs[0].images[0].mask is None


@pytest.mark.parametrize(
    ("width", "height", "colour", "expected"),
    [
        (30, 20, 255, None),  # of the same shape: resized
        (31, 20, 255, None),  # ... but for rounding to whole pixels
        (600, 400, 255, None),
        (40, 60, 255, ("D023", "0-mask.png is 40 x 60, but 0.png is 60 x 40; give a mask of the image's size")),
        (60, 38, 255, ("D023", "0-mask.png is 60 x 38, but 0.png is 60 x 40; give a mask of the image's size")),
        (60, 40, 0, ("D024", "0-mask.png is all black: nothing of 0.png would count; paint it white")),
    ],
)
def test_a_mask_must_fit_its_image_and_show_something(
    tmp_path: Path, width: int, height: int, colour: int, expected: tuple[str, str] | None
) -> None:
    path = manifest(tmp_path, MASKED)
    Image.new("L", (width, height), colour).save(tmp_path / "rex" / "0-mask.png")
    assert [(i, said) for i, level, said in found(path) if level == "error"] == ([expected] if expected else [])


def test_a_damaged_mask_stops_its_subject_only_where_masks_are_used(tmp_path: Path) -> None:
    path = manifest(tmp_path, MASKED)
    (tmp_path / "rex" / "1-mask.png").write_bytes(b"<html>")
    [(code, level, said)] = found(path)
    assert (code, level) == ("D002", "error")
    assert said.startswith("1-mask.png does not hold a JPEG, PNG, WEBP,")
    path.write_text(path.read_text().replace(MASKED, "{}"))
    assert [(code, level) for code, level, _ in found(path)] == [("D025", "info")]


def test_masks_and_class_images_are_read_as_other_pictures_are(tmp_path: Path) -> None:
    path = manifest(tmp_path, "{masked_loss: 0.1, prior: {mode: images, images: dogs}}")
    for file in ("rex/0-mask.png", "dogs/4.png"):
        with Image.open(tmp_path / file) as picture:
            picture.save(tmp_path / file, icc_profile=b"no profile")
    (tmp_path / "dogs" / "bad.jpg").unlink()
    [report] = examine(path).reports
    said = [f.message for f in report.findings if f.id == "D027" and f.level == "warn"]
    assert [one.partition(" has a colour profile")[0] for one in said] == ["0-mask.png", "prior.images 'dogs': 4.png"]


def test_a_second_mask_of_a_picture_and_the_mask_of_a_bad_one_are_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, MASKED)
    Image.new("L", (60, 40), 255).save(tmp_path / "rex" / "0-mask.jpg")
    (tmp_path / "rex" / "3.png").write_bytes(b"<html>")
    said = [f.message for f in examine(path).reports[0].findings]
    assert "masks not used, their images are not trained on: 3-mask.png" in said
    assert "left out as neither images nor captions: 0-mask.jpg" in said


def test_masks_that_are_missing_or_unused(tmp_path: Path) -> None:
    [(code, level, said)] = found(manifest(tmp_path, "{}"))
    assert (code, level) == ("D025", "info")
    assert said == (
        "4 masks not used (0-mask.png, 1-mask.png, 2-mask.png, 3-mask.png); set masked_loss: 0 in the recipe to train "
        "on what is white"
    )
    for mask in (tmp_path / "rex").glob("*-mask.png"):
        mask.unlink()
    assert found(manifest(tmp_path, MASKED, masks=2)) == [
        ("D025", "info", "2 of 4 images have no mask; all of each counts")
    ]
    for mask in (tmp_path / "rex").glob("*-mask.png"):
        mask.unlink()
    [(code, level, said)] = found(manifest(tmp_path, MASKED, masks=0))
    assert (code, level) == ("D025", "error")
    assert said.endswith("add name-mask.png beside name.png, or leave it out")


def test_stray_files_in_the_class_folder_are_passed_over(tmp_path: Path) -> None:
    """Defect 14: every file of the folder was opened as an image."""
    path = manifest(tmp_path, PRIOR, masks=0)
    [job] = prepare(path).plan.jobs
    assert job.class_images is not None
    assert job.class_images.folder == str(tmp_path / "dogs")
    assert [image.file for image in job.class_images.images] == ["4.png", "5.png"]
    [(code, level, said)] = found(path)
    assert (code, level) == ("D026", "warn")
    assert said.startswith("prior.images 'dogs': bad.jpg does not hold a JPEG")
    [left_out] = [f for f in examine(path).reports[0].findings if f.id == "D028"]
    assert (left_out.level, left_out.message) == (
        "info", "prior.images 'dogs': left out as no images of the class: .gitattributes, 4.txt, below"
    )  # fmt: skip


def test_ids_depend_on_the_contents_of_the_class_folder_not_on_its_name(tmp_path: Path) -> None:
    before = only_id(manifest(tmp_path, PRIOR))
    (tmp_path / "dogs").rename(tmp_path / "others")
    (tmp_path / "m.yaml").write_text((tmp_path / "m.yaml").read_text().replace("images: dogs", "images: ./others"))
    assert only_id(tmp_path / "m.yaml") == before
    Image.new("RGB", (60, 40), "red").save(tmp_path / "others" / "5.png")
    assert only_id(tmp_path / "m.yaml") != before
    (tmp_path / "m.yaml").write_text((tmp_path / "m.yaml").read_text().replace("mode: images", "mode: predict"))
    assert only_id(tmp_path / "m.yaml") != before


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            PRIOR.replace("dogs", "cats"),
            "D026: prior.images 'cats' is no folder that can be opened; paths are relative",
        ),
        (PRIOR.replace("dogs", "dogs/below"), "D026: no readable image in prior.images 'dogs/below'; put JPEG, PNG"),
        (PRIOR.replace("dogs", "rex/0.png"), "D026: prior.images 'rex/0.png' is no folder"),
    ],
)
def test_a_class_folder_that_is_missing_or_empty_stops_the_submission(tmp_path: Path, recipe: str, said: str) -> None:
    with pytest.raises(DataError) as problem:
        prepare(manifest(tmp_path, recipe))
    assert said in str(problem.value)


def test_a_prefix_that_holds_tok_is_enough(tmp_path: Path) -> None:
    path = manifest(tmp_path, "{caption: {prefix: 'TOK dog, '}}")
    (tmp_path / "rex" / "0.txt").write_text("in the snow")
    assert not [f for f in examine(path).reports[0].findings if f.id == "D011"]
    path.write_text(path.read_text().replace("TOK dog, ", "dog, "))
    assert [f for f in examine(path).reports[0].findings if f.id == "D011"]
