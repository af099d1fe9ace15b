"""Wherever photographs lie, the same ones make the same jobs, and what is wrong is a finding of their subject alone."""

import shutil
from pathlib import Path

import fsspec
import pytest
from subject_folders import fill, good, packed

from lorafleet.cli import new_app, run
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.prepare import examine, prepare

MANIFEST = "name: pets\nbase: toy-sdxl\nsubjects:\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """This process's home."""
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def plan_of(folder: Path, *subjects: str):
    path = folder / "m.yaml"
    path.write_text(MANIFEST + "".join(f"  - {subject}\n" for subject in subjects))
    return prepare(path, machine=Machine.here()).plan


def ids(plan) -> tuple[str, list[str]]:
    return plan.submission, [job.id for job in plan.jobs]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_a_zip_file_and_an_address_make_the_same_jobs(tmp_path, home) -> None:
    rex = fill(tmp_path / "rex", {**good(), "00.txt": "a TOK dog"})
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/pets/rex/{name}": content for name, content in files(rex).items()})
    plain = ids(plan_of(tmp_path, "{images: rex, class: dog}"))
    (tmp_path / "zips").mkdir()
    packed(tmp_path / "zips" / "rex.zip", {f"some folder/{name}": content for name, content in files(rex).items()})
    assert ids(plan_of(tmp_path, "{images: zips/rex.zip, class: dog}")) == plain
    assert ids(plan_of(tmp_path, '{glob: "zips/*.zip", class: dog}')) == plain
    assert ids(plan_of(tmp_path, "{images: memory://pets/rex, class: dog}")) == plain
    (tmp_path / "t.csv").write_text("path,class\nmemory://pets/rex,dog\n")
    assert ids(plan_of(tmp_path, "{from: t.csv}")) == plain
    [job] = plan_of(tmp_path, "{images: zips/rex.zip, class: dog}").jobs
    assert (job.subject, job.images[0].caption) == ("rex", "a TOK dog")
    assert Path(job.folder).parent == home / "photographs"
    memory.store.clear()


def test_a_manifest_that_moves_with_its_photographs_is_the_same_submission(tmp_path, monkeypatch) -> None:
    here, there = tmp_path / "here", tmp_path / "far" / "there"
    fill(
        here / "photos" / "rex",
        {**good(), **{f"{n:02}-mask.png": image for n, image in enumerate(good(4, 3).values())}},
    )
    packed(here / "mimi.zip", files(fill(tmp_path / "mimi", good(4, seed=5))))
    fill(here / "dogs", good(3, seed=7))
    recipe = "{masked_loss: 0.1, prior: {mode: images, images: dogs}}"
    written = ("{images: photos/rex, class: dog, recipe: " + recipe + "}", "{images: mimi.zip, class: cat}")
    first = ids(plan_of(here, *written))
    shutil.copytree(here, there)
    shutil.rmtree(here)
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "another home"))
    monkeypatch.chdir(there)
    assert ids(plan_of(Path(), *written)) == first
    monkeypatch.chdir("/")
    assert ids(plan_of(there, *written)) == first


def test_what_is_wrong_with_one_is_its_finding_alone(tmp_path) -> None:
    fill(tmp_path / "rex", good())
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    (tmp_path / "m.yaml").write_text(
        MANIFEST + "  - {images: rex, class: dog}\n  - {images: bad.zip, class: dog}\n"
        "  - {images: 'ftp://somewhere/mimi', class: cat}\n  - {images: gone.zip, class: dog}\n"
    )
    reports = examine(tmp_path / "m.yaml").reports
    assert [(r.name, [f.id for f in r.errors]) for r in reports] == [
        ("rex", []), ("bad", ["D038"]), ("mimi", ["D038"]), ("gone", ["D020"]),
    ]  # fmt: skip
    assert reports[1].errors[0].message.startswith("m.yaml:5:")
    assert "bad.zip is no zip file, or damaged" in reports[1].errors[0].message


def test_captions_are_not_written_into_a_zip_file(tmp_path, capsys) -> None:
    packed(tmp_path / "rex.zip", files(fill(tmp_path / "rex", good())))
    (tmp_path / "m.yaml").write_text(MANIFEST + "  - {images: rex.zip, class: dog}\n")
    app = new_app()
    register(app)
    assert run(app, ["caption", str(tmp_path / "m.yaml"), "--captioner", "toy"]) == 1
    assert "rex: captions are not written into a zip file or to an address; give its folder" in capsys.readouterr().err
    assert not list((tmp_path / "home").rglob("*.txt"))
