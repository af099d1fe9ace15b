"""What is a subject's, decided from rows and versions alone."""

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from job_rows import spec

from lorafleet.config import Manifest
from lorafleet.errors import BusyError, NotFoundError, RequestError
from lorafleet.tracking.removal import Registered
from lorafleet_jobs.forget.belongings import (
    belongings,
    refuse_too_early,
    refuse_unknown,
    runs_of,
    versions_of,
)
from lorafleet_jobs.forget.redacted import lines_without, manifest_without
from lorafleet_jobs.jobqueue.job_state import JobRow, forget, overall, requeue
from lorafleet_jobs.jobspec import ImageSpec, MaskSpec


def row(submission, job, subject="rex", state="succeeded", pictures=(), **more):
    images = tuple(
        ImageSpec(file=f"{sha}.png", caption=None, sha256=sha, mask=MaskSpec(file=f"{sha}-mask.png", sha256=f"{sha}m"))
        for sha in pictures
    )
    one = spec(job, submission).with_changes(subject=subject, adapter=subject, images=images)
    return JobRow(submission, job, 0, one, state=state, **more)


def version(job, number=1, run="r"):
    return Registered("rex", number, job, run, "")


ROWS = [
    row("one", "a", pictures=("p", "q"), run_id="ra"), row("one", "m", "mia", pictures=("q",), run_id="rm"),
    row("two", "a", pictures=("p", "q"), run_id="ra2"), row("two", "b", pictures=("s",), run_id="rb"),
]  # fmt: skip


def test_everything_of_a_subject_and_nothing_of_another():
    mine = belongings("rex", ROWS)
    assert [(job.submission, job.id) for job in mine.jobs] == [("one", "a"), ("two", "a"), ("two", "b")]
    assert (mine.only_its, mine.photographs, mine.kept_photographs) == ({"a", "b"}, {*"pqs", "pm", "qm", "sm"}, set())


def test_of_one_submission_what_another_shares_stays():
    mine = belongings("rex", ROWS, "two")
    assert (mine.only_its, mine.kept_photographs) == ({"b"}, {"p", "q", "pm", "qm"})
    rest = [replace(one, state="forgotten") for one in ROWS[2:]]
    assert belongings("rex", [*ROWS[:2], *rest], "one").only_its == {"a"}


def test_a_folder_goes_unless_another_job_is_trained_on_it():
    own = [replace(one, spec=one.spec.with_changes(folder=f"/{one.spec.subject}")) for one in ROWS]
    assert belongings("rex", own).folders == {"/rex"}
    assert belongings("rex", ROWS).folders == set(), "mia's photographs lie there too"
    assert belongings("rex", own, "one").folders == set(), "the other submission goes on needing them"


def test_versions_of_this_home_go_and_strangers_of_the_same_name_stay():
    mine, of = belongings("rex", ROWS), [version("a"), version("b", 2), version("import", 3), version("elsewhere", 4)]
    split = versions_of(mine, of, {"a", "b", "import"}, whole=True)
    assert ([one.version for one in split.its], [one.version for one in split.elsewhere]) == ([1, 2, 3], [4])
    split = versions_of(belongings("rex", ROWS, "two"), of, {"a", "b", "import"}, whole=False)
    assert [one.version for one in split.its] == [2]


def test_a_run_that_two_submissions_share_stays_for_the_other():
    shared = [replace(one, run_id="ra") if one.id == "a" else one for one in ROWS]
    mine = belongings("rex", shared, "two")
    assert runs_of(mine, [], ()) == ("rb",)
    assert runs_of(belongings("rex", shared), [], ()) == ("ra", "rb")


def test_a_run_that_holds_a_bundle_that_stays_is_kept():
    mine = belongings("rex", ROWS, "two")
    assert runs_of(mine, ["rb", "rb-old"], [version("a", run="ra2")]) == ("rb", "rb-old")
    assert runs_of(mine, ["rb"], [version("a", run="ra")]) == ("rb", "ra2")


@pytest.mark.parametrize(("state", "ago", "driven", "refusal"), [
    ("queued", 0, False, RequestError), ("running", 0, True, RequestError), ("cancelled", 5, True, BusyError),
    ("cancelled", 5, False, None), ("cancelled", 120, True, None), ("succeeded", 0, True, None),
    ("failed", 0, True, None), ("stopped", 0, True, None), ("forgotten", 0, False, None),
])  # fmt: skip
def test_what_a_lane_holds_or_may_hold_is_refused(state, ago, driven, refusal):
    mine = belongings("rex", [row("one", "a", state=state, updated=1000.0 - ago)])
    if refusal is None:
        refuse_too_early(mine, ["one"] if driven else [], 1000.0)
        return
    with pytest.raises(refusal, match="rex"):
        refuse_too_early(mine, ["one"] if driven else [], 1000.0)


def test_an_unknown_name_is_told_with_its_neighbours():
    refuse_unknown("rex", None, {"rex"}, [])
    refuse_unknown("style", None, {"rex"}, ["style"])
    with pytest.raises(NotFoundError, match=r"no subject 'style' in two; see: lorafleet ls"):
        refuse_unknown("style", "two", {"rex"}, ["style"])
    with pytest.raises(NotFoundError, match="did you mean rex"):
        refuse_unknown("rexx", None, {"rex", "mia"}, [])


def test_a_forgotten_row_says_its_name_and_nothing_that_it_learned_from():
    before = row("one", "a", pictures=("p",), run_id="ra", version=3, error="/photos/rex/0.png is damaged", loss=0.1)
    after = forget(before, 7.0)
    assert (after.spec.subject, after.state, after.updated, after.steps) == ("rex", "forgotten", 7.0, before.steps)
    for word in ("/photos", "p.png", "a photo of", "'ra'", "damaged"):
        assert word in repr(before)
        assert word not in repr(after)
    assert forget(replace(before, state="running"), 7.0) is None
    assert forget(after, 8.0) == replace(after, updated=8.0)
    assert requeue(after, 9.0).state == "queued"


@pytest.mark.parametrize(("states", "state"), [
    (["forgotten"], "forgotten"), (["forgotten", "succeeded"], "succeeded"), (["forgotten", "failed"], "failed"),
    (["forgotten", "queued"], "running"),
])  # fmt: skip
def test_what_a_submission_comes_to_with_forgotten_jobs(states, state):
    assert overall(states) == state


MANIFEST = {
    "name": "pets",
    "subjects": [
        {"name": "rex", "images": "photos/secret", "class": "dog", "instance_prompt": "a photo of TOK the good dog"},
        {"images": "photos/rex-2019", "class": "dog"}, {"glob": "photos/*"}, {"name": "mia", "images": "photos/rex"},
    ],
}  # fmt: skip


def test_a_manifest_keeps_a_name_and_reads_on():
    text = manifest_without(yaml.safe_dump(MANIFEST), "rex", {"/here/photos/rex-2019"})
    subjects = yaml.safe_load(text)["subjects"]
    assert subjects[:2] == [{"name": "rex", "images": "(forgotten)"}] * 2
    assert subjects[2:] == MANIFEST["subjects"][2:], "a glob names nobody, and a folder of the name may be another's"
    assert "secret" not in text
    Manifest.model_validate(yaml.safe_load(text))
    assert manifest_without(text, "rex", {""}) == text


@given(st.lists(st.binary(max_size=12)), st.sampled_from(["ab", "é", ""]))
def test_lines_with_a_word_go_and_all_others_stay(lines, word):
    text = b"".join(line.replace(b"\n", b"").replace(b"\r", b"") + b"\n" for line in lines)
    left = lines_without(text, [word])
    assert left == b"".join(line for line in text.splitlines(keepends=True) if not word or word.encode() not in line)
