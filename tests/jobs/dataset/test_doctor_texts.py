"""The dataset doctor on captions and prompts."""

from pathlib import Path

import pytest
from subject_folders import examined, fill, found, good, manifest

from lorafleet_jobs.dataset.about_texts import Texts
from lorafleet_jobs.dataset.doctor import Needs, check


@pytest.mark.parametrize("caption", ["a TOK <|endoftext|> dog", "TOK, >_<, <o>_<o>", "a TOK <my-dog>"])
def test_what_is_no_trigger_of_the_submission_is_text(tmp_path: Path, caption: str) -> None:
    report = examined(tmp_path, {**good(), "00.txt": caption})
    assert (found(report), report.images[0].caption) == ([], caption)


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a TOK <mimi>", "holds '<mimi>', which is reserved; write TOK where the subject is named"),
        ("a <rex> dog", "holds '<rex>', which is reserved; write TOK"),
        ("a <rex/TOK2>, TOK", "holds '<rex/TOK2>'"),
        ("a TOK \x1b[2J", "holds '\\x1b', which is reserved; remove it"),
    ],
)
def test_triggers_of_the_submission_are_reserved(tmp_path: Path, caption: str, said: str) -> None:
    fill(tmp_path / "rex", {**good(), "00.txt": caption})
    fill(tmp_path / "mimi", good(seed=1))
    reports = check(manifest(*({"images": name, "class": "dog"} for name in ("rex", "mimi"))), tmp_path)
    [problem] = reports[0].errors
    assert (problem.id, problem.file, reports[1].errors) == ("D014", "00.txt", ())
    assert said in problem.message


def test_captions_that_lack_tok(tmp_path: Path) -> None:
    report = examined(tmp_path, {**good(), "00.txt": "a dog in the snow"})  # the others have the instance prompt
    assert found(report) == [("D011", "warn", "00.png")]
    assert "1 of 4 captions lack TOK" in report.findings[-1].message


@pytest.mark.parametrize(
    ("texts", "level"),
    [
        (Texts(), "error"),
        (Texts(token=False), None),
        (Texts(prefixes=("TOK, ",)), None),
        (Texts(prefixes=("TOK, ", "")), "error"),
    ],
)
def test_a_subject_none_of_whose_captions_holds_tok_cannot_train_it(
    tmp_path: Path, texts: Texts, level: str | None
) -> None:
    fill(tmp_path / "rex", {**good(), **{f"{n:02}.txt": f"a photo of sks dog {n}" for n in range(4)}})
    [report] = check(manifest({"images": "rex", "class": "dog"}), tmp_path, Needs(texts=texts))
    assert [(f.id, f.level) for f in report.findings] == ([("D011", level)] if level else [])


def test_the_instance_prompt_must_hold_what_is_learned(tmp_path: Path) -> None:
    fill(tmp_path / "rex", good())
    for prompt, token, ids in [
        ("a photo of TOK dog", True, []),
        ("a photo of rex", True, ["D011"]),
        ("a photo of TOKEN", True, ["D011"]),
        ("a photo of rex", False, []),
        ("TOK <rex>", True, ["D014"]),
        ("TOK <x>", True, []),
    ]:
        spec = {"images": "rex", "class": "dog", "instance_prompt": prompt}
        [report] = check(manifest(spec), tmp_path, Needs(texts=Texts(token=token)))
        assert [f.id for f in report.errors] == ids
