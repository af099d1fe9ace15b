"""The file of votes that a sheet's page exports, and how several become one set. Pure: knows no registry."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from lorafleet.config.strict import Strict, parse
from lorafleet.errors import RequestError
from lorafleet_serve.sheet.ranking import Compared

FORMAT = "lorafleet/votes/v1"
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{8,64}$")]
Text = Annotated[str, Field(max_length=2000)]


class Contestant(Strict):
    """What is voted for: a version of an adapter; where all pictures are one adapter's, that with some settings."""

    adapter: Annotated[str, Field(min_length=3, max_length=200)]
    """NAME@VERSION."""
    settings: Annotated[str, Field(max_length=400)] = ""
    """As in "scale 0.7, ddim"; empty where versions are compared."""

    @property
    def label(self) -> str:
        """For people, and one for each contestant."""
        return f"{self.adapter} {self.settings}".strip()


class Vote(Strict):
    """One answer to "which is better?"."""

    id: Identifier
    left: Contestant
    right: Contestant
    winner: Literal["left", "right", "equal"]
    prompt: Text = ""
    seed: int | None = None
    at: Annotated[str, Field(max_length=40)] = ""
    """When, in ISO 8601."""
    voter: Annotated[str, Field(max_length=80)] = ""

    @model_validator(mode="after")
    def _two_contestants(self) -> Vote:
        if self.left == self.right:
            raise ValueError(f"{self.left.label} is compared with itself; export the votes again")
        return self


class VotesFile(Strict):
    """What the page exports."""

    format: Literal["lorafleet/votes/v1"]
    sheet: Text
    """The title of the sheet."""
    submissions: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The MLflow runs of the submissions whose adapters were voted on; none of imported adapters'."""
    adapters: Mapping[str, str | None]
    """The versions that could be voted for, NAME@VERSION, each with the MLflow run that it is of."""
    votes: tuple[Vote, ...]


def read_votes(text: str, where: str) -> VotesFile:
    """A file of votes; RequestError says what is wrong with it."""
    try:
        data = json.loads(text)
    except ValueError as problem:
        raise RequestError(f"{where} is no JSON ({problem}); give the file that a sheet's page exported") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise RequestError(f"{where} is no file of votes; give the file that a sheet's page exported")
    return parse(VotesFile, data, where, RequestError)


def merged(votes: Iterable[Vote]) -> dict[str, Vote]:
    """Votes by their ids, each once; RequestError if one id comes with two answers."""
    found: dict[str, Vote] = {}
    for vote in votes:
        if found.setdefault(vote.id, vote) != vote:
            raise RequestError(f"vote {vote.id} comes with two different answers; export the votes again from the page")
    return found


def comparisons(votes: Iterable[Vote]) -> list[Compared]:
    """What the ranking counts."""
    outcome: Mapping[str, Literal["a", "b", "equal"]] = {"left": "a", "right": "b", "equal": "equal"}
    return [Compared(vote.left.label, vote.right.label, outcome[vote.winner]) for vote in votes]


def contestants(votes: Sequence[Vote]) -> dict[str, Contestant]:
    """Everything that was voted on, by its label."""
    return {one.label: one for vote in votes for one in (vote.left, vote.right)}
