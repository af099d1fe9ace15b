"""Votes on their way from files to the submissions they are about, and all that were cast there.

Under a submission's run each import leaves one file, named by its contents, with the votes that were new: so nothing is
overwritten, two imports at once lose nothing, and the same file twice changes nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.bundle.ports import AdapterVersion
from lorafleet.errors import NotFoundError
from lorafleet.tracking.submissions import RecordedSubmission, SubmissionRecords
from lorafleet_serve.sheet.votes import Vote, VotesFile, merged, read_votes

FOLDER = "votes"


@dataclass(frozen=True)
class Poll:
    """All votes on some submissions, and in files that are on none."""

    votes: tuple[Vote, ...]
    """On adapters that are registered."""
    added: int
    """Of the files, new to their submissions."""
    gone: tuple[str, ...]
    """Adapters that were voted on and are registered no more; their votes are kept, and not counted."""
    candidates: frozenset[str]
    """NAME@VERSION of what could be voted on."""
    submissions: tuple[RecordedSubmission, ...]


def take_poll(
    files: Mapping[str, VotesFile],
    names: Sequence[RecordedSubmission],
    records: SubmissionRecords,
    registered: Iterable[AdapterVersion],
) -> Poll:
    """Adds the files' votes to their submissions, and collects all votes on these and on the submissions `names`.

    NotFoundError names adapters of a file that are not registered, or are other ones here; nothing is added then.
    RequestError for votes that contradict each other. Raises UnreachableError.
    """
    known = {f"{one.name}@{one.version}": one.run_id for one in registered}
    for name, file in files.items():
        _check_known(name, file, known)
    submissions = {one.run_id: one for one in names}
    for file in files.values():
        submissions |= {run_id: records.of_run(run_id) for run_id in file.submissions}
    kept = {run_id: stored(records, run_id) for run_id in submissions}
    given = [vote for file in files.values() for vote in file.votes]
    everything = merged([*(vote for votes in kept.values() for vote in votes.values()), *given])
    added: set[str] = set()
    for file in files.values():
        for run_id in file.submissions:
            added |= _add(records, run_id, file, kept[run_id])
    voted = {one.adapter for vote in everything.values() for one in (vote.left, vote.right)}
    counted = [vote for vote in everything.values() if {vote.left.adapter, vote.right.adapter} <= known.keys()]
    names_voted = {label.partition("@")[0] for label in voted}
    candidates = {label for file in files.values() for label in file.adapters}
    candidates |= {
        f"{one.adapter}@{one.version}"
        for submission in submissions.values()
        for one in submission.versions
        if one.adapter in names_voted
    }
    return Poll(
        tuple(counted), len(added), tuple(sorted(voted - known.keys())), frozenset(candidates & known.keys()),
        tuple(submissions.values()),
    )  # fmt: skip


def stored(records: SubmissionRecords, run_id: str) -> dict[str, Vote]:
    """The votes that are kept on a submission, by id."""
    texts = records.kept(run_id, FOLDER)
    return merged(vote for name, text in sorted(texts.items()) for vote in read_votes(text, f"{FOLDER}/{name}").votes)


def _check_known(name: str, file: VotesFile, known: Mapping[str, str | None]) -> None:
    voted = sorted({one.adapter for vote in file.votes for one in (vote.left, vote.right)})
    if unknown := [label for label in voted if label not in known]:
        raise NotFoundError(
            f"{name} has votes on {', '.join(unknown)}, not registered here; see: lorafleet adapters ls"
        )
    if others := [label for label in voted if file.adapters.get(label) != known[label]]:
        raise NotFoundError(
            f"{name} has votes on {', '.join(others)}, and here another adapter has that name and version; import the "
            "file where its sheet was made"
        )


def _add(records: SubmissionRecords, run_id: str, file: VotesFile, kept: dict[str, Vote]) -> set[str]:
    new = tuple(vote for vote in file.votes if vote.id not in kept)
    if new:
        data = file.with_changes(votes=new).model_dump_json(indent=1).encode()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
            path.write_bytes(data)
            records.keep(run_id, [path], FOLDER)
        kept |= {vote.id: vote for vote in new}
    return {vote.id for vote in new}
