"""What MLflow's pages say of submissions, jobs and versions, and where they lead."""

from tracked_jobs import bundle_at, job

from lorafleet.bundle.ports import RunEnd
from lorafleet.tracking.links import NOTE, NOTE_AT_MOST, Child, parent_note


def test_descriptions_lead_from_a_submission_to_its_jobs_and_versions_and_back(tracking, home):
    parent = tracking.start_submission("linked", "2" * 16, {}, "")
    runs = [tracking.start_job(parent, job(name, name=f"{name}-1", job_id=name * 8)) for name in ("ab", "cd")]
    experiment = tracking.client.get_run(parent).info.experiment_id
    back = f"[linked 22222222](#/experiments/{experiment}/runs/{parent})"
    assert all(note_of(tracking, run) == f"Part of {back}" for run in runs)
    tracking.register(bundle_at(home / "bundles" / "ab", "ab", "ab" * 8), runs[0])
    tracking.finish(runs[0], RunEnd("FINISHED"))
    tracking.finish(runs[1], RunEnd("FAILED", "gone"))
    tracking.link(parent, {runs[0]: "succeeded", runs[1]: "failed"})
    table = note_of(tracking, parent)
    assert "2 jobs: 1 failed, 1 succeeded" in table
    assert f"| [cd-1](#/experiments/{experiment}/runs/{runs[1]}) | failed | cd |" in table
    assert (
        f"| [ab-1](#/experiments/{experiment}/runs/{runs[0]}) | succeeded | [ab@1](#/models/ab/versions/1) |" in table
    )
    assert table.index("cd-1") < table.index("ab-1"), "failed first"
    made, picture = note_of(tracking, runs[0]).split("\n\n", 1)
    assert made == f"Part of {back}; made [ab@1](#/models/ab/versions/1)"
    assert picture.startswith(
        f"![base, words only, adapter](get-artifact?path=adapter%2Fpreview.png&run_uuid={runs[0]})"
    )


def note_of(tracking, run_id):
    return tracking.client.get_run(run_id).data.tags[NOTE]


def test_a_table_too_long_for_mlflow_keeps_the_failed_and_says_how_many_are_missing():
    states = ["succeeded"] * 150 + ["failed"] * 3
    children = [Child(f"{n:032x}", "1", f"cat-{n}", state, f"cat-{n}", "1") for n, state in enumerate(states)]
    table = parent_note("1", "f" * 32, children)
    assert len(table) <= NOTE_AT_MOST
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    assert sum("| failed |" in row for row in rows) == 3
    assert table.splitlines()[-1] == f"| and {153 - len(rows)} more | | |"
