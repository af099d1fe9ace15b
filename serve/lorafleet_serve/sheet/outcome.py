"""The outcome of a poll: rankings with what they mean, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from lorafleet.bundle.ports import CHAMPION, AdapterVersion
from lorafleet.errors import NotFoundError
from lorafleet.tracking.submissions import RecordedSubmission, SubmissionRecords
from lorafleet_serve.sheet.poll import Poll
from lorafleet_serve.sheet.ranking import Ranking, rank
from lorafleet_serve.sheet.verdict import remarks, sentence
from lorafleet_serve.sheet.votes import VotesFile, comparisons, contestants, read_votes


@dataclass(frozen=True)
class Outcome:
    """What a poll says."""

    poll: Poll
    rankings: tuple[tuple[Ranking, str], ...]
    """Each with what it means, and what to do."""
    remarks: tuple[str, ...]


def read_words(
    words: Sequence[str], records: SubmissionRecords
) -> tuple[dict[str, VotesFile], list[RecordedSubmission]]:
    """Files of votes by their names, and submissions. RequestError, NotFoundError."""
    files: dict[str, VotesFile] = {}
    named = []
    for word in words:
        if Path(word).is_file():
            files[word] = read_votes(Path(word).read_text("utf-8", errors="replace"), word)
        elif (submission := records.find(word)) is not None:
            named.append(submission)
        else:
            raise NotFoundError(f"{word!r} is neither a file nor a submission here; give what a sheet's page exported")
    return files, named


def outcome_of(poll: Poll, registered: Iterable[AdapterVersion]) -> Outcome:
    """Ranks a poll's votes."""
    known = contestants(poll.votes)
    champions = {
        f"{one.name}@{one.version}" for one in registered if any(alias.startswith(CHAMPION) for alias in one.aliases)
    }
    rankings = rank(comparisons(poll.votes))
    said = [(ranking, sentence(ranking, known, champions)) for ranking in rankings]
    return Outcome(poll, tuple(said), (*_about(poll), *remarks(rankings, known, poll.candidates)))


def tables(outcome: Outcome) -> list[tuple[Table, str]]:
    """A table for each ranking, and the sentence under it."""
    made = []
    for ranking, said in outcome.rankings:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in ("", "", "votes", "wins", "preferred", "95 %"):
            table.add_column(head, justify="left" if not head else "right")
        for place, one in enumerate(ranking.standings, 1):
            middle, low, high = (f"{100 * share:.0f}" for share in one.share)
            table.add_row(str(place), one.name, str(one.votes), f"{one.wins:g}", f"{middle} %", f"{low} to {high}")
        made.append((table, said))
    return made


def as_json(outcome: Outcome) -> dict[str, object]:
    """The outcome as one document."""
    return {
        "votes": len(outcome.poll.votes),
        "added": outcome.poll.added,
        "submissions": [one.id for one in outcome.poll.submissions],
        "rankings": [
            {
                "standings": [
                    {"name": one.name, "votes": one.votes, "wins": one.wins,
                     "preferred": one.share[0], "low": one.share[1], "high": one.share[2]}
                    for one in ranking.standings
                ],
                "winner": None if ranking.winner is None else ranking.winner.name,
                "votes_missing": None if ranking.winner else ranking.votes_missing,
                "says": said,
            }
            for ranking, said in outcome.rankings
        ],
        "remarks": list(outcome.remarks),
    }  # fmt: skip


def _about(poll: Poll) -> list[str]:
    said = []
    if poll.submissions:
        names = ", ".join(one.id for one in poll.submissions)
        said.append(f"{poll.added} new votes on {names}, {len(poll.votes)} in all")
    elif poll.votes:
        said.append(
            "these adapters are of no submission, so the votes are counted here and kept nowhere; keep the file"
        )
    if poll.gone:
        said.append(f"votes on {', '.join(poll.gone)} are not counted: no such version is registered any more")
    return said
