"""What a terminal shows of a submission: everything where there is room, the jobs that matter where there is not."""

import dataclasses
import io

import pytest
from rich.console import Console

from lorafleet.bundle.bundle import PREVIEW
from lorafleet.config import Recipe, Resources, Validation
from lorafleet.home import Home
from lorafleet_jobs.cli.terminal.watch import board, jobs_that_fit, lane_line, previews, remark
from lorafleet_jobs.jobqueue.eta import all_seconds_left, clock, elapsed, seconds_left, speed
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import Submission, failures
from lorafleet_jobs.jobqueue.tables import LaneRow, SubmissionRow
from lorafleet_jobs.jobspec import JobSpec

ROW = SubmissionRow("pets-01", "pets", "toy-playground", "name: pets\n", 2, Resources(), created=100.0)


def job(number: int, adapter: str | None = None, **values) -> JobRow:
    name = adapter or f"dog-{number:02d}"
    spec = JobSpec(
        id=f"{number:016x}"[::-1], submission="pets-01", subject=name, adapter=name, base="toy-playground", folder="/p",
        images=(), class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(), steps=200,
        validation=Validation(), dataset_fingerprint="f",
    )  # fmt: skip
    return JobRow("pets-01", spec.id, number, spec, steps=200, **values)


def running(number: int, step: int, **values) -> JobRow:
    known = {"lane": "3f9c-1", "attempts": 1, "started": 100.0, "stepping_since": 190.0, "updated": 200.0, **values}
    return job(number, state="running", step=step, **known)


def shown(jobs, room: int | None, now: float = 200.0) -> list[str]:
    console = Console(width=120, height=20, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board(Submission(ROW, tuple(jobs)), now, room))
    return [line.rstrip() for line in console.export_text().splitlines()]


FLEET = [
    *(job(n, state="succeeded", version=1, step=200, attempts=1) for n in range(20)),
    *(running(n, 100) for n in range(20, 24)),
    *(job(n) for n in range(24, 46)),
    job(46, state="failed", kind="data", error="D002: no picture\nin it"),
    job(47, state="stopped", error="stopped at step 50 of 200 by early_stop"),
]


def test_48_jobs_fit_a_screen_with_those_first_that_matter():
    lines = shown(FLEET, 10)
    assert lines[0] == (
        "pets-01: running   4 running, 1 failed, 22 queued, 1 stopped, 20 succeeded   since 1:40   ETA 2:00"
    )
    assert [line.split()[0] for line in lines[3:-1]] == [
        "dog-20", "dog-21", "dog-22", "dog-23", "dog-46", "dog-24", "dog-25", "dog-26", "dog-27", "dog-28",
    ]  # fmt: skip
    assert lines[-1] == "and 38 more: 17 queued, 1 stopped, 20 succeeded"
    assert len(lines) <= 10 + 5


def test_a_running_job_shows_lane_pace_and_attempts():
    (said,) = [line for line in shown([running(1, 100, loss=0.25, attempts=3)], None) if line.startswith("dog-01")]
    assert [word.strip("━╸╺ ") or "bar" for word in said.split()] == [
        "dog-01", "1", "running", "bar", "100/200", "0.2500", "10.0", "0:10", "attempt", "3",
    ]  # fmt: skip


def test_a_lane_says_what_it_does_and_what_it_uses_of_its_device():
    gpu = LaneRow("pets-01", "3f9c-1", "node-3", "NVIDIA H200", "training 4 jobs", 97.4, 62669, 143155, 200.0)
    assert lane_line(gpu) == "lane 1: training 4 jobs, NVIDIA H200 97 % busy, 61.2 of 139.8 GiB, on node-3"
    untold = dataclasses.replace(gpu, busy=None, device="CPU", doing="loading \x1b[2J")
    assert lane_line(untold) == "lane 1: loading \\x1b[2J, CPU, 61.2 of 139.8 GiB, on node-3"
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(board(Submission(ROW, (running(1, 3),), (gpu,)), 200.0, 10))
    assert console.export_text().splitlines()[1] == lane_line(gpu)


def test_a_finished_jobs_name_is_a_link_to_its_picture(tmp_path):
    done, going = job(1, state="succeeded", version=2), running(2, 5)
    home = Home(tmp_path)
    (home.bundles / done.id).mkdir(parents=True)
    preview = home.bundles / done.id / PREVIEW
    assert previews(home)(done) is None
    preview.write_bytes(b"a picture")
    assert (previews(home)(done), previews(home)(going)) == (preview.as_uri(), None)
    console = Console(width=200, force_terminal=True, file=io.StringIO())
    console.print(board(Submission(ROW, (done, going)), 200.0, picture=previews(home)))
    linked = [line for line in console.file.getvalue().splitlines() if preview.as_uri() in line]
    assert len(linked) == 1
    assert "dog-01" in linked[0]


def test_an_adapter_that_learned_nothing_visible_is_not_just_a_version():
    done = job(1, state="succeeded", version=3, kind="unchanged")
    said = "version 3, but its pictures are as before training, so it has learned nothing visible"
    assert remark(done, 0).startswith(f"{said}; train with more steps")
    assert remark(dataclasses.replace(done, kind=None), 0) == "version 3"
    assert failures(Submission(ROW, (done,))) == []


def test_without_a_bound_everything_is_shown_in_order_and_reasons_are_whole():
    reason = "a long reason " * 20
    lines = shown([*FLEET, job(48, state="failed", kind="recipe", error=reason)], None)
    assert [line.split()[0] for line in lines if line.startswith("dog-")] == [f"dog-{n:02d}" for n in range(49)]
    assert "".join("".join(lines).split()).count("alongreason") == 20


def test_a_long_reason_takes_one_line_of_a_live_table():
    lines = shown([job(0, state="failed", kind="recipe", error="a long reason " * 20)], 10)
    assert len(lines) == 4
    assert lines[-1].endswith("…")


def test_jobs_keep_their_order_where_all_have_room():
    assert jobs_that_fit(FLEET, 48) == tuple(FLEET)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"state": "queued"}, ""),
        ({"state": "queued", "error": "lane a died", "not_before": 130.0}, "again in 0:30: lane a died"),
        ({"state": "queued", "error": "lane a died", "not_before": 90.0}, "again: lane a died"),
        ({"state": "failed", "kind": "data", "error": "D002:\x1b[2J no\npicture"}, "data: D002:\\x1b[2J no picture"),
        ({"state": "cancelled", "kind": "cancelled", "error": "cancelled"}, ""),
        ({"state": "stopped", "error": "stopped at step 5"}, "stopped at step 5"),
        ({"state": "succeeded", "version": 3, "attempts": 2}, "version 3"),
        ({"state": "running", "attempts": 2}, "attempt 2"),
    ],
)
def test_remarks(values, said):
    assert remark(job(0, **values), 100.0) == said


def test_pace_counts_from_the_first_step_of_the_attempt_not_from_the_load():
    resumed = running(0, 150, stepping_from=100)
    assert speed(resumed) == pytest.approx(5.0)
    assert seconds_left(resumed, 204.0) == pytest.approx(10.0 - 4.0)
    assert seconds_left(resumed, 999.0) == 0.0
    assert speed(running(0, 100, stepping_from=100)) is None, "no step yet"
    assert speed(running(0, 0, stepping_since=None)) is None
    assert speed(job(0, state="succeeded", step=200, stepping_since=0.0, updated=1.0)) is None


def test_all_is_done_when_the_rest_is_trained_at_todays_pace_and_not_before_the_slowest():
    fast, slow = running(0, 150), running(1, 10)  # 15 and 1 steps a second
    assert all_seconds_left([fast, slow, job(2)], 200.0) == pytest.approx(190.0)
    assert all_seconds_left([fast, job(2), job(3)], 200.0) == pytest.approx(450 / 15)
    assert all_seconds_left([job(0), job(1, state="succeeded")], 200.0) is None


def test_elapsed_is_of_the_last_attempt():
    assert elapsed(job(0), 500.0) is None
    assert elapsed(running(0, 5), 500.0) == 400.0
    assert elapsed(job(0, state="failed", started=100.0, updated=150.0), 500.0) == 50.0


@pytest.mark.parametrize(("seconds", "said"), [(7.4, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_clock(seconds, said):
    assert clock(seconds) == said


def test_jobs_of_one_adapter_are_told_apart_and_failures_name_a_command_that_finds_them():
    twin = dataclasses.replace(job(2, "cat"), state="failed", kind="memory", error="does not fit")
    found = Submission(ROW, (job(1, "cat"), twin, job(3, "dog", state="failed", error="no luck")))
    assert [found.label(one) for one in found.jobs] == [f"cat {found.jobs[0].id[:6]}", f"cat {twin.id[:6]}", "dog"]
    assert failures(found) == [
        f"  cat {twin.id[:6]}: memory: does not fit",
        f"    lorafleet logs pets-01 {twin.id}",
        "  dog: no luck",
        "    lorafleet logs pets-01 dog",
    ]
