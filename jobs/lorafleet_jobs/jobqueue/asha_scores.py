"""The scores of jobs at their rungs, as rows in SQL, and what each was told there. Knows no cluster and no pictures.

The first score of a job at a rung counts, and so does the first answer: a job that comes there again, in a later
attempt, is told the same.
"""

from __future__ import annotations

from sqlalchemy import Engine, and_, select

from lorafleet_jobs.jobqueue.asha import Halving, Verdict
from lorafleet_jobs.jobqueue.tables import ScoreRow, insert_into, scores, values_of
from lorafleet_jobs.jobspec import JobSpec


class ScoreBook:
    """The scores of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def verdict(self, spec: JobSpec, attempt: int, rung: int, score: float) -> Verdict:
        """Whether a job goes on, measured against the jobs of its subject that were at this rung before it."""
        halving = Halving.of(spec)
        assert halving is not None, spec.id  # only jobs with early_stop come to rungs
        own = and_(scores.c.submission == spec.submission, scores.c.job == spec.id, scores.c.rung == rung)
        verdict = halving.verdict(rung, score, self.of_rung(spec.submission, spec.subject, rung, but=spec.id))
        row = ScoreRow(spec.submission, spec.id, rung, spec.subject, attempt, score, verdict.bar, verdict.goes_on)
        with self._engine.connect() as connection:
            insert = insert_into(self._engine, scores).values(values_of(row))
            connection.execute(insert.on_conflict_do_nothing())
            first = connection.execute(select(scores.c.goes_on, scores.c.bar).where(own)).one()
        return Verdict(first.goes_on, first.bar)

    def furthest(self, submission: str) -> dict[str, tuple[int, float]]:
        """By job the furthest rung that it came to, and its score there."""
        asked = select(scores.c.job, scores.c.rung, scores.c.score).where(scores.c.submission == submission)
        with self._engine.connect() as connection:
            rows = sorted(connection.execute(asked).all())
        return {job: (rung, score) for job, rung, score in rows}

    def of_rung(self, submission: str, subject: str, rung: int, but: str = "") -> list[float]:
        """The scores of a subject's jobs at a rung, without the job `but`."""
        here = and_(scores.c.submission == submission, scores.c.subject == subject, scores.c.rung == rung)
        with self._engine.connect() as connection:
            return list(connection.execute(select(scores.c.score).where(here, scores.c.job != but)).scalars())
