"""`cancel`, `retry`, `logs` and `wait` as their users meet them, up to the point where a cluster would start."""

import hashlib
import hmac
import http.server
import json
import threading
import time

import mlflow
import pytest
import yaml
from job_rows import fail, finish, progress
from PIL import Image

from lorafleet.bundle.ports import RunEnd
from lorafleet.cli import new_app, run
from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.cli import submit_command
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.status import load_submission, open_store
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.submission.driver_lease import driver_lease
from lorafleet_jobs.submission.finish import conclude
from lorafleet_jobs.submission.submit import record


@pytest.fixture
def home(tmp_path, with_mlflow, monkeypatch):
    root = with_mlflow(tmp_path / "home")
    monkeypatch.setenv("LORAFLEET_HOME", str(root))
    return Home(root)


@pytest.fixture
def kitchen(home, tmp_path):
    """The id of a recorded submission: cup, jug and pan, all queued."""
    return submitted(home, tmp_path)


def submitted(home, folder, **more) -> str:
    subjects = ("cup", "jug", "pan")
    for number, subject in enumerate(subjects):
        (folder / subject).mkdir()
        for index in range(4):
            Image.new("RGB", (48, 40), (60 * index + 30, 90, 80 * number)).save(folder / subject / f"{index}.png")
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": "kitchen", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": 2}, "validation": {"steps": 1}, **more,
        "subjects": [{"name": subject, "images": subject, "class": "vessel"} for subject in subjects],
    }  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(text))
    prepared = prepare(folder / "manifest.yaml")
    record(prepared, home)
    return prepared.plan.submission


def lorafleet(*arguments):
    app = new_app()
    register(app)
    return run(app, [str(argument) for argument in arguments])


def end_all(home, submission, **failed) -> None:
    """As lanes would: every job succeeds, but those that are named fail with this reason."""
    store = open_store(home)
    while (row := store.lease(submission, "a-0", time.time())) is not None:
        progress(store, submission, row.id, row.attempts, 1, 0.25, time.time())
        if (reason := failed.get(row.spec.adapter)) is None:
            finish(store, submission, row.id, row.attempts, "succeeded", time.time(), version=1)
        else:
            fail(store, submission, row.id, row.attempts, "data", reason, time.time())


def states(home) -> dict[str, str]:
    return {job.spec.adapter: job.state for job in load_submission(home, None).jobs}


def statuses(home) -> dict[str, str]:
    client = mlflow.MlflowClient(home.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("kitchen").experiment_id])
    return {run.data.tags.get("adapter", "submission"): run.info.status for run in runs}


@pytest.mark.parametrize("command", [
    ("cancel", "nobody"), ("retry", "nobody"), ("wait", "nobody"), ("logs", "nobody", "cup"), ("logs", "spoon"),
    ("cancel", "kitchen", "cup", "spoon"), ("retry", "kitchen", "spoon"), ("wait", "kitchen", "nobody"),
])  # fmt: skip
def test_what_is_not_there_is_exit_3_and_changes_nothing(command, home, kitchen, capsys):
    assert lorafleet(*command) == 3
    said = capsys.readouterr().err
    assert "'nobody'" in said or "'spoon'" in said
    assert set(states(home).values()) == {"queued"}


@pytest.mark.parametrize("command", [("cancel", "x"), ("retry", "x"), ("wait",), ("logs", "cup")])
def test_a_home_without_submissions_is_exit_3_and_stays_empty(command, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "none"))
    assert lorafleet(*command) == 3
    assert not (tmp_path / "none").exists()


def test_cancelling_one_job_leaves_the_others_and_closes_its_run(home, kitchen, capsys):
    assert lorafleet("cancel", kitchen[:9], "jug") == 0
    assert states(home) == {"cup": "queued", "jug": "cancelled", "pan": "queued"}
    assert statuses(home) == {"submission": "RUNNING", "cup": "SCHEDULED", "jug": "KILLED", "pan": "SCHEDULED"}
    assert "cancelled jug" in capsys.readouterr().err
    assert lorafleet("logs", "jug") == 0
    assert capsys.readouterr().out.endswith("Z cancelled\n")


def test_cancelling_a_submission_that_nobody_drives_closes_all_its_runs(home, kitchen):
    assert lorafleet("cancel", kitchen) == 0
    assert set(states(home).values()) == {"cancelled"}
    assert statuses(home) == {"submission": "FAILED", "cup": "KILLED", "jug": "KILLED", "pan": "KILLED"}
    assert lorafleet("wait", kitchen) == 1


def test_runs_are_its_drivers_to_close_while_there_is_one(home, kitchen):
    with driver_lease(open_store(home), kitchen):
        assert lorafleet("cancel", kitchen, "cup") == 0
    assert statuses(home)["cup"] == "SCHEDULED"


def test_what_has_ended_is_not_cancelled(home, kitchen, capsys):
    end_all(home, kitchen)
    assert lorafleet("cancel", kitchen) == 0
    assert "nothing to cancel" in capsys.readouterr().err
    assert set(states(home).values()) == {"succeeded"}


@pytest.mark.parametrize(
    ("arguments", "queued"),
    [
        ((), {"cup", "jug"}),
        (("--failed",), {"cup"}),
        (("jug",), {"jug"}),
        (("pan",), set()),
        (("--failed", "jug"), set()),
    ],
)
def test_retry_queues_what_failed_or_was_cancelled_and_nothing_else(arguments, queued, home, kitchen, capsys):
    lorafleet("cancel", kitchen, "jug")
    end_all(home, kitchen, cup="D002: no picture")
    assert states(home) == {"cup": "failed", "jug": "cancelled", "pan": "succeeded"}
    capsys.readouterr()
    with driver_lease(open_store(home), kitchen):  # so that no other is started
        assert lorafleet("retry", kitchen, *arguments) == 0
    assert {name for name, state in states(home).items() if state == "queued"} == queued
    assert ("queued again" in capsys.readouterr().err) == bool(queued)


def test_retry_of_what_has_succeeded_starts_nothing(home, kitchen, capsys):
    end_all(home, kitchen)
    assert lorafleet("retry", kitchen) == 0
    assert "no job of" in capsys.readouterr().err
    assert not (home.submissions / kitchen / "driver.log").exists()


def test_wait_says_what_failed_and_where_to_read_more(home, kitchen, capsys):
    end_all(home, kitchen, jug="D002: photos/\x1b[2J is no picture")
    assert lorafleet("wait", "--json") == 1
    said = capsys.readouterr()
    (document,) = json.loads(said.out)["submissions"]
    assert (document["state"], [job["kind"] for job in document["jobs"]]) == ("failed", [None, "data", None])
    assert said.err.splitlines()[:3] == [
        f"{kitchen}: 1 failed, 2 succeeded",
        "  jug: data: D002: photos/\\x1b[2J is no picture",
        f"    lorafleet logs {kitchen} jug",
    ]


def test_wait_waits_for_the_driver_to_leave(home, kitchen, capsys):
    def drive():
        with driver_lease(open_store(home), kitchen):
            driving.set()
            may_end.wait()
            end_all(home, kitchen)

    driving, may_end = threading.Event(), threading.Event()
    driver, waiter = threading.Thread(target=drive), threading.Thread(target=lambda: codes.append(lorafleet("wait")))
    codes: list[int] = []
    driver.start()
    driving.wait()
    waiter.start()
    waiter.join(1.0)
    assert codes == []
    may_end.set()
    waiter.join()
    driver.join()
    assert codes == [0]


@pytest.mark.parametrize("command", ["wait", "status", "watch"])
def test_a_submission_whose_driver_died_says_how_to_go_on(command, home, kitchen, capsys):
    assert lorafleet(command, kitchen) == (0 if command == "status" else 1)
    said = capsys.readouterr().err
    assert f"nobody is training {kitchen} now; go on with: lorafleet retry {kitchen}" in said


def test_leaving_watch_says_how_to_come_back_and_is_no_failure(home, kitchen, capsys, monkeypatch):
    from lorafleet_jobs.cli import status_commands

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(status_commands, "follow", interrupted)  # a key cannot be pressed here
    assert lorafleet("watch") == 0
    said = capsys.readouterr().err
    assert f"lorafleet watch {kitchen}" in said
    assert f"lorafleet cancel {kitchen}" in said
    assert set(states(home).values()) == {"queued"}


def test_logs_of_a_job_as_text_as_json_and_followed_to_its_end(home, kitchen, capsys):
    job = load_submission(home, kitchen).jobs[0]
    assert lorafleet("logs", kitchen, "cup") == 0
    assert "cup has not begun" in capsys.readouterr().err
    log = JobLog(home.job_log(kitchen, job.id))
    log.append("attempt 1, lane a-0")
    log.append("Traceback:\n  boom \x1b[2J")
    assert lorafleet("logs", kitchen, job.id[:8]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("Z attempt 1, lane a-0")
    assert lines[2] == "    boom \\x1b[2J"
    assert lorafleet("logs", "cup", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["submission"], document["job"], document["adapter"]) == (kitchen, job.id, "cup")
    assert [entry["text"] for entry in document["entries"]] == ["attempt 1, lane a-0", "Traceback:\n  boom \x1b[2J"]
    end_all(home, kitchen)
    assert lorafleet("logs", "cup", "-f") == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert lorafleet("logs", "cup", "-f", "--json") == 2


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments):
        pass


def test_the_end_is_a_page_at_home_and_in_mlflow_and_a_signed_post(home, tmp_path, monkeypatch):
    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    url = f"http://127.0.0.1:{server.server_port}/hook"
    kitchen = submitted(home, tmp_path, notify={"url": url, "secret_env": "HOOK_SECRET"})
    run_id = load_submission(home, kitchen).jobs[0].run_id
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    for step in range(1, 9):
        tracking.log_metrics(run_id, step, {"train/loss": 1 / step})
    tracking.log_metrics(run_id, 9, {"train/loss": float("nan")})
    tracking.finish(run_id, RunEnd("FINISHED"))
    end_all(home, kitchen, jug="D002: no picture")
    done = load_submission(home, kitchen)
    conclude(home, done, tracking)
    server.shutdown()
    server.server_close()

    text = home.report(kitchen).read_text()
    assert text.count("<svg") == 2, "cup's curve, in its card and in the table"
    client = mlflow.MlflowClient(home.tracking_uri)
    artifact = client.download_artifacts(done.row.run_id, "report/index.html", str(tmp_path))
    assert open(artifact).read() == text  # noqa: SIM115
    ((headers, body),) = server.got
    assert json.loads(body) == done.as_json()
    signed = hmac.new(b"s3cret", headers["X-Lorafleet-Timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["X-Lorafleet-Signature"] == f"sha256={signed.hexdigest()}"


def test_whatever_goes_wrong_at_the_end_is_only_noted(home, tmp_path, capsys):
    kitchen = submitted(home, tmp_path, notify={"url": "http://127.0.0.1:1/s3cret", "secret_env": "NOT_SET_ANYWHERE"})
    end_all(home, kitchen)
    home.report(kitchen).mkdir()  # so that it cannot be written
    conclude(home, load_submission(home, kitchen), MlflowTracking("http://127.0.0.1:1", home.artifacts))
    said = capsys.readouterr().err
    assert "curves are missing in the report: MLflow at http://127.0.0.1:1 does not answer" in said
    assert "no report: " in said
    assert "NOT_SET_ANYWHERE, which is not set here; nobody was notified" in said
    assert "s3cret" not in said


def test_a_webhook_without_its_secret_is_said_before_anything_starts(home, tmp_path, capsys):
    submitted(home, tmp_path, notify={"url": "http://127.0.0.1:1", "secret_env": "NOT_SET_ANYWHERE"})
    submit_command._announce(prepare(tmp_path / "manifest.yaml"))
    assert "NOT_SET_ANYWHERE, which is not set here" in capsys.readouterr().err
