"""What tests of the rows share: a submission of jobs without pictures, in a store."""

from lorafleet.config import Recipe, Resources, Validation
from lorafleet_jobs.jobqueue import job_state
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import SubmissionRow
from lorafleet_jobs.jobspec import JobSpec

SUBMISSION = "pets-0123456789"


def spec(job: str, submission: str = SUBMISSION) -> JobSpec:
    return JobSpec(
        id=job, submission=submission, subject=job, adapter=job, base="toy-playground", folder="/photos", images=(),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(), steps=7, validation=Validation(),
        dataset_fingerprint="f",
    )  # fmt: skip


def filled(url: str, count: int, submission: str = SUBMISSION, **resources) -> JobStore:
    """A store with a submission of job0, job1 and so on, all queued."""
    store = JobStore(url)
    row = SubmissionRow(submission, "pets", "toy-playground", "name: pets\n", 2, Resources(**resources))
    store.add(row, tuple(spec(f"job{n}", submission) for n in range(count)), now=0.0)
    for n in range(count):
        store.set_run(submission, f"job{n}", f"run{n}")
    return store


def job(store: JobStore, name: str) -> JobRow:
    return next(row for row in store.jobs(SUBMISSION) if row.id == name)


def heartbeat(store, submission, job, attempt, now):
    return store.change(submission, job, lambda row: job_state.heartbeat(row, attempt, now)) is not None


def progress(store, submission, job, attempt, step, loss, now):
    return store.change(submission, job, lambda row: job_state.progress(row, attempt, step, loss, now)) is not None


def finish(store, submission, job, attempt, state, now, **result):
    return store.change(submission, job, lambda row: job_state.finish(row, attempt, state, now, **result)) is not None


def fail(store, submission, job, attempt, kind, reason, now, packed=1):
    return store.change(submission, job, lambda row: job_state.fail(row, attempt, kind, reason, now, packed))
