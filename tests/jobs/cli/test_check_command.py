"""`check` as a user meets it: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest
from commands_here import REX, call, document, manifest, write_subjects


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with two subjects of four pictures each, and an empty one."""
    return write_subjects(tmp_path)


def test_check_of_good_subjects(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(here, "check", manifest(REX, "{images: mimi, class: cat}"), "--json") == 0
    found = document(capsys)
    assert set(found) == {"ok", "subjects"}
    assert found["ok"] is True
    assert [(s["name"], s["images"], [f["id"] for f in s["findings"]]) for s in found["subjects"]] == [
        ("rex", 4, ["D010"]), ("mimi", 4, ["D010"]),
    ]  # fmt: skip
    assert set(found["subjects"][0]["findings"][0]) == {"id", "level", "message", "file"}


def test_check_of_a_bad_subject_is_exit_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(here, "check", manifest(REX, "{images: empty, class: cat}"), "--json") == 1
    found = document(capsys)
    assert (found["ok"], found["subjects"][1]["images"]) == (False, 0)
    assert [f["level"] for f in found["subjects"][1]["findings"]] == ["error"]

    assert call(here, "check", manifest(REX, "{images: empty, class: cat}")) == 1
    out = capsys.readouterr().out
    assert "no readable image in 'empty'" in " ".join(out.split())
    assert "1 of 2 subjects cannot be trained; the others can" in out


def test_check_tells_each_subject_in_a_line_and_many_of_a_kind_as_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(5):
        (here / "rex").joinpath("bad.txt").write_text("no picture of this name")
        (here / f"copy{n}").symlink_to(here / "rex")
    (here / "mimi" / "0.txt").write_text("a cat")
    folders = [f"{{images: copy{n}, class: dog}}" for n in range(5)]
    text = manifest("{images: mimi, class: cat}", *folders, "{images: empty, class: cat}")
    assert call(here, "check", text) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["mimi", "4", "ready"], ["copy0", "4", "ready"], ["copy1", "4", "ready"],
    ]  # fmt: skip
    assert lines[7].split()[:3] == ["empty", "0", "cannot"]
    told = lines[lines.index("") + 1 :]
    assert told[0].startswith("error D001  empty: m.yaml:9:14: no readable image in 'empty'")
    assert "warn  D011  mimi: 1 of 4 captions lack TOK, the word to be learned (0.txt); write it in" in told
    assert any(line.startswith("warn  D018  5 subjects: copy0: shares 4 pictures with 'copy1';") for line in told)
    bare = next(line for line in told if line.startswith("info  D010  6 subjects: mimi: 3 of 4 images have no caption"))
    assert bare.endswith("; the instance prompt stands in (and copy0, copy1, copy2, copy3, copy4)")

    assert call(here, "check", text, "--level", "error") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["subject", "empty", "", "error", "1"]
    assert call(here, "check", text, "--level", "warning", "--json") == 1
    levels = {f["level"] for s in document(capsys)["subjects"] for f in s["findings"]}
    assert levels == {"error", "warn"}


def test_check_without_the_base_says_what_it_leaves_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(here, "check", manifest(REX), "--base", "someone/never-fetched", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["ok"] is True
    assert err.startswith(
        "note: D004 (low resolution) and D029 (long captions) cannot be judged: "
        "base 'someone/never-fetched' is not here"
    )


def test_many_images_are_opened_by_several_processes_with_the_same_result(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorafleet_jobs.dataset import doctor
    from lorafleet_jobs.intake.prepare import examine

    (here / "mimi" / "bad.jpg").write_text("<html>")
    (here / "m.yaml").write_text(manifest(REX, "{images: mimi, class: cat}", "{images: nowhere, class: cat}"))
    alone = examine(here / "m.yaml").reports
    monkeypatch.setattr(doctor, "MANY_IMAGES", 4)
    ticks: list[tuple[int, int]] = []
    together = examine(here / "m.yaml", tick=lambda done, count: ticks.append((done, count)), workers=2).reports
    assert together == alone
    assert [[look.pixels for look in one.looks] for one in together] == [
        [look.pixels for look in one.looks] for one in alone
    ]
    assert ticks == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_check_of_many_says_at_once_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from lorafleet_jobs.cli.terminal.ticking import MANY, Ticking

    few = Ticking()
    few(0, MANY - 1)
    few(1, MANY - 1)
    assert capsys.readouterr().err == ""
    many = Ticking()
    many(0, MANY)
    many(1, MANY)
    assert capsys.readouterr().err == f"0 of {MANY} subjects are looked at\n"
