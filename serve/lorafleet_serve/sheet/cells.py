"""One picture of a sheet: what is asked of the engine for it, how it is described, what it may be voted against.

Pure. Knows candidates and requests; refuses to know where a cell stands (`contact`, `axes`) and pixels.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.errors import RequestError
from lorafleet.subject_words import filled, without_subject
from lorafleet_serve.engine.prompt_tags import check_untagged, read_tags
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest, Settings
from lorafleet_serve.sheet.candidates import Candidate, Found
from lorafleet_serve.sheet.votes import Contestant

DEFAULT_PROMPTS = ("a photo of TOK {class} on the beach", "a photo of TOK {class} in the snow")


@dataclass(frozen=True)
class Shot:
    """What one picture is made of."""

    candidate: Candidate | None
    """None: the base alone."""
    of: Candidate
    """Whose class and name stand in the prompt."""
    prompt: str
    """With `TOK`, `{class}` and `{name}` for the subject's own."""
    seed: int
    scale: float = 1.0
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None

    def request(self) -> GenerateRequest:
        """The request that makes it; RequestError for what is out of bounds."""
        name, noun = self.of.adapter.name, self.of.card.class_noun
        text = filled(self.prompt, name, noun)
        if self.candidate is None or not self.candidate.card.triggers:
            text = without_subject(text, name, noun)
        return GenerateRequest(
            text, self.seed,
            adapters=() if self.candidate is None else (AdapterUse(self.candidate.adapter, self.scale),),
            steps=self.steps, guidance_scale=self.guidance_scale, scheduler=self.scheduler,
            negative_prompt=self.negative_prompt,
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A place of a sheet: a photo, or a picture to be made."""

    alt: str
    """Says the picture to whoever does not see it."""
    request: GenerateRequest | None = None
    photo: Path | None = None
    candidate: Candidate | None = None
    contestant: Contestant | None = None
    """What a vote for this picture is for; None where no vote is asked for."""
    among: str = ""
    """Pictures of one `among` and different contestants are voted on."""


@dataclass(frozen=True)
class Head:
    """The name of a row."""

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Block:
    """A table of cells; None is an empty place."""

    title: str
    rows: tuple[Head, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """A sheet to be made."""

    title: str
    base: str
    found: Found
    blocks: tuple[Block, ...]

    @property
    def cells(self) -> list[Cell]:
        """All of them."""
        return [cell for block in self.blocks for row in block.cells for cell in row if cell is not None]

    @property
    def requests(self) -> list[GenerateRequest]:
        """What the engine is asked for, each once."""
        return list(dict.fromkeys(cell.request for cell in self.cells if cell.request is not None))


def check_prompts(prompts: Sequence[str], negative: str | None) -> None:
    """RequestError for a prompt that names adapters: those of a sheet are its targets."""
    check_untagged(negative)
    for prompt in prompts:
        if read_tags(prompt)[1]:
            raise RequestError(f"prompt {prompt!r} names an adapter; a sheet's adapters are named before its options")


def shown_prompt(prompt: str, found: Found) -> str:
    """A prompt as a heading: with the class in it where all candidates have the same."""
    nouns = {one.card.class_noun for one in found.candidates}
    return prompt.replace("{class}", nouns.pop()) if len(nouns) == 1 else prompt


def head_of(candidate: Candidate) -> Head:
    """A candidate's name for a row."""
    return Head(candidate.label, candidate.point, "champion" if candidate.is_champion else "")


def contestants_of(found: Found, candidate: Candidate) -> tuple[Contestant | None, str]:
    """A candidate as what is voted for, and among whom: those of its name, if any name has several candidates."""
    if not candidate.registered or len(found.candidates) < 2:
        return None, ""
    return Contestant(adapter=candidate.label), candidate.adapter.name if found.repeated else ""


def sampling(settings: Settings) -> str:
    """The sampler and its steps, for people."""
    return f"{settings.scheduler}, {settings.steps} step{'s' * (settings.steps > 1)}"


def command(settings: Settings, candidate: Candidate | None) -> str:
    """The command that makes a picture again."""
    request = settings.request
    words = ["lorafleet", "generate", request.prompt]
    for use in request.adapters:
        words += ["--adapter", f"{candidate.spelt if candidate else use.adapter.name}={use.scale:g}"]
    if not request.adapters:
        words += ["--base", settings.base.name]
    if request.negative_prompt:
        words += ["--negative-prompt", request.negative_prompt]
    words += ["--steps", str(settings.steps), "--guidance-scale", f"{settings.guidance_scale:g}"]
    words += ["--scheduler", settings.scheduler, "--seed", str(request.seed)]
    return shlex.join(words)
