"""A registered version's description: what a reviewer decides by, on MLflow's own page of the version.

A picture, scores, the prompt to type. The part that lorafleet writes ends with a mark: scores are written anew above
it, what a person adds below it stays, and a description without the mark is a person's. Knows Markdown and cards;
scores are a run's metrics, whoever made them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorafleet.bundle.bundle import PREVIEW, AdapterCard
from lorafleet.bundle.change import unchanged_note
from lorafleet.tracking.links import preview

MARK = "<!-- written by lorafleet; what stands below this line is kept -->"
SCORES = "### Scores"
EVAL = "eval/"
"""How the names of a run's metrics begin that are scores."""
AT_MOST = 5000
"""Characters that MLflow keeps of a description."""


def describe(client: Any, version: Any, card: AdapterCard, run_id: str) -> None:
    """Writes a version's description, unless it has one."""
    if not version.description:
        text = described(card, int(version.version), run_id, _scores_of(client, run_id))
        client.update_model_version(version.name, version.version, text)


def rescore(client: Any, name: str, number: int) -> None:
    """Writes the scores that a version's run has by now into its description."""
    version = client.get_model_version(name, str(number))
    if version.run_id:
        text = rescored(version.description or "", _scores_of(client, version.run_id))
        client.update_model_version(name, version.version, text)


def described(card: AdapterCard, version: int, run_id: str, scores: Mapping[str, float]) -> str:
    """The description of a version that nobody has written on yet."""
    name = f"{card.name}@{version}"
    parts = []
    if PREVIEW in card.sha256:
        parts.append(preview(run_id))
    if note := unchanged_note(card.metrics):
        parts.append(f"**Unchanged**: {note}.")
    prompt = prompt_of(card)
    parts.append(f'```\nlorafleet generate "{prompt}" --adapter {name}\n```')
    facts = {
        "prompt": f"`{prompt}`",
        "trigger words": " ".join(f"`{trigger.trigger}`" for trigger in card.triggers) or "none; any prompt will do",
        "base": f"`{card.base}`",
        "learned": _learned(card),
    }
    parts.append("\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]))
    return _cut("\n\n".join(parts), _scores(scores))


def rescored(text: str, scores: Mapping[str, float]) -> str:
    """A description with other scores; as it is, if a person wrote it."""
    ours, mark, below = text.partition(MARK)
    if not mark:
        return text
    return _cut(ours.partition(SCORES)[0].rstrip(), _scores(scores)) + below


def prompt_of(card: AdapterCard) -> str:
    """A prompt that can be typed: the instance prompt with each abstraction's trigger in its place."""
    prompt = card.instance_prompt or " ".join(trigger.abstraction for trigger in card.triggers) or "a photo"
    for trigger in card.triggers:
        prompt = re.sub(rf"\b{re.escape(trigger.abstraction)}\b", trigger.trigger, prompt)
    return prompt


def _scores_of(client: Any, run_id: str) -> dict[str, float]:
    metrics: Mapping[str, float] = client.get_run(run_id).data.metrics
    return {key.removeprefix(EVAL): value for key, value in metrics.items() if key.startswith(EVAL)}


def _learned(card: AdapterCard) -> str:
    if card.imported_from:
        return f"imported from `{card.imported_from}`"
    tokens = sum(len(trigger.tokens) for trigger in card.triggers)
    what = [f"{'DoRA' if card.dora else 'LoRA'} of rank {card.rank}"] if card.rank else []
    what += [f"{tokens} word{'s' * (tokens != 1)}"] if tokens else []
    return f"{' and '.join(what)}, in {card.steps} steps on {card.images} photos"


def _scores(scores: Mapping[str, float]) -> str:
    if not scores:
        return f"{SCORES}\n\nnone yet; `lorafleet evaluate` writes them here"
    rows = [f"| {name} | {value:.3g} |" for name, value in scores.items()]
    return "\n".join([SCORES, "", "| score | value |", "|---|---|", *rows])


def _cut(head: str, scores: str) -> str:
    """Both parts and the mark, the scores cut at a line's end where MLflow has no room for all."""
    room = AT_MOST - len(head) - len(MARK) - 4
    lines = scores.split("\n")
    while len("\n".join(lines)) > room:
        lines.pop()
    return "\n\n".join([head, "\n".join(lines), MARK])
