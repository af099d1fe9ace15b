"""`caption` as a user meets it, with the captioner of the toy world."""

import json
from pathlib import Path

import pytest
from commands_here import call

from lorafleet.cli import new_app, run
from lorafleet.toy.subjects import write_subjects
from lorafleet_jobs.cli.commands import register

TOY = ("--captioner", "toy")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Folders of a boat and of a star, without captions."""
    for subject in write_subjects(tmp_path, ["boat", "star"], pictures=3):
        for path in subject.folder.glob("*.txt"):
            path.unlink()
    return tmp_path


MANIFEST = (
    "name: toys\nsubjects:\n  - {images: boat-01, class: boat}\n  - {images: star-02, class: star, name: stella}\n"
)


def caption(*arguments: object) -> int:
    app = new_app()
    register(app)
    return run(app, ["caption", *map(str, arguments)])


def test_every_photograph_of_a_manifest(pets, capsys) -> None:
    assert call(pets, "caption", MANIFEST, *TOY) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["subject", "photograph", "caption"]
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, f"0{n}.png"] for name in ("boat-01", "stella") for n in range(3)
    ]
    assert "6 captions by toy written; look through them" in err
    texts = [(pets / folder / f"0{n}.txt").read_text() for folder in ("boat-01", "star-02") for n in range(3)]
    assert [text.strip() for text in texts] == [line.split(maxsplit=2)[2].strip() for line in lines[1:]]
    assert all(text.count("TOK") == 1 and text.endswith("\n") for text in texts)
    assert sum("TOK boat" in text for text in texts[:3]) == 3
    assert sum(path.suffix == ".txt" for path in pets.rglob("*")) == 6

    assert call(pets, "check", MANIFEST, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert not any(f["id"] in ("D010", "D011", "D030") for one in found["subjects"] for f in one["findings"])


def test_captions_that_are_there_stay(pets, capsys) -> None:
    folder = pets / "boat-01"
    (folder / "00.caption").write_text("TOK boat, mine")
    (folder / "01.txt").write_text("")
    assert caption(folder, *TOY, "--class", "boat", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["captioner"], made["written"]) == ("toy", True)
    assert [Path(one["caption_file"]).name for one in made["captions"]] == ["01.txt", "02.txt"]
    assert (folder / "01.txt").read_text() == made["captions"][0]["caption"] + "\n"
    assert not (folder / "00.txt").exists()

    assert caption(folder, *TOY, "--class", "boat") == 0
    assert "3 photographs have a caption, nothing to do; --overwrite" in capsys.readouterr().err
    assert caption(folder, *TOY, "--class", "boat", "--overwrite") == 0
    assert "TOK boat" in (folder / "00.txt").read_text()


def test_a_dry_run_writes_nothing(pets, capsys) -> None:
    before = sorted(pets.rglob("*"))
    assert caption(pets / "boat-01", *TOY, "--dry-run") == 0
    out, err = capsys.readouterr()
    assert sorted(pets.rglob("*")) == before
    assert "3 captions by toy would be written" in err
    assert out.count("a photo of TOK, ") == 3  # no class, so the subject is named before what it looks like


def test_what_is_not_read_as_a_caption_is_not_written_over(pets, capsys) -> None:
    target = pets / "boat-01" / "00.txt"
    target.write_bytes(b"\xff\xfeb\x00\x00")
    assert caption(pets / "boat-01", *TOY) == 1
    assert target.read_bytes() == b"\xff\xfeb\x00\x00"
    assert "00.txt is there and not read as a caption, so it stays" in capsys.readouterr().err
    assert (pets / "boat-01" / "01.txt").exists()


def test_words_that_the_recipe_puts_before_captions(pets) -> None:
    more = "recipe: {caption: {prefix: 'a photo of TOK, '}}\n"
    assert call(pets, "caption", MANIFEST + more, *TOY) == 0
    assert not any("TOK" in path.read_text() for path in pets.rglob("*.txt"))


def test_without_a_captioner_it_is_refused_before_anything_is_written(pets, monkeypatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pets / "hub"))
    assert call(pets, "caption", MANIFEST) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no captioner is ready on this machine")
    assert "hf download florence-community/Florence-2-large" in err
    assert not list(pets.rglob("*.txt"))


def test_folders_without_photographs(pets, capsys) -> None:
    (pets / "none").mkdir()
    assert caption(pets / "none", *TOY) == 2
    assert "there is no photograph in" in capsys.readouterr().err
    assert call(pets, "caption", MANIFEST, *TOY, "--class", "boat") == 2
    assert "a manifest says it itself" in capsys.readouterr().err
