"""Who is champion: decided by a policy, never taken from a person, and written down with who, when and why.

The registry's alias `champion` is what a name without a version means. Submissions move it only as their policy says,
and only if one of them set it; the model's tag `lorafleet.champion` says so. A name that has adapters for a second base
has an alias of its own for that base, `champion-<base>`. `decide` is pure; the rest knows MLflow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException

from lorafleet.bundle.change import UNCHANGED, unchanged_note
from lorafleet.bundle.ports import CHALLENGER, CHAMPION, Score
from lorafleet.config.promotion_policy import Promotion
from lorafleet.errors import NotFoundError, RequestError
from lorafleet.tracking.client import ABSENT
from lorafleet.util.machine import this_user

OURS = "lorafleet.{alias}"
"""The model's tag with the version that a submission pointed an alias at; one that is elsewhere a person has moved."""
MOVED = "lorafleet.{alias}.moved"
"""The version's tag with who pointed an alias at it, when and why."""
SCORE = "lorafleet.score"
"""The version's tag with its score, as JSON."""
CHANGED_NOTHING = "lorafleet.unchanged"
"""The tag of a version that has learned nothing visible, with the figure and the remedy."""
BY = "lorafleet"
"""Who points an alias for a submission."""
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Standing:
    """A version as it stands in the competition for an alias."""

    version: int
    score: Score | None = None
    unchanged: bool = False
    """Whether it has learned nothing visible."""
    ours: bool = True
    """Whether the alias was pointed at it by a submission, and by nobody since."""


@dataclass(frozen=True)
class Decision:
    """Whether a new version becomes champion, and why."""

    promoted: bool
    why: str


def decide(policy: Promotion, name: str, new: Standing, champion: Standing | None) -> Decision:
    """Whether `new` takes the place of `champion`, both of one base.

    One that has learned nothing visible never does; where nobody is champion it becomes it under `always` alone.
    """
    if policy == "manual":
        return Decision(False, "promotion is manual")
    if champion is None:
        if new.unchanged and policy != "always":
            return Decision(False, UNCHANGED)
        return Decision(True, "it is the first")
    now = f"champion is {name}@{champion.version}"
    if new.unchanged:
        return Decision(False, f"{UNCHANGED}; {now}")
    if not champion.ours:
        return Decision(False, f"{now}, chosen by hand")
    if policy == "always":
        return Decision(True, "the newest is always champion")
    if policy == "first" or new.score is None or champion.score is None:
        return Decision(False, now)
    if new.score.metric != champion.score.metric:
        return Decision(False, f"{now}, whose score is {champion.score.metric}, not {new.score.metric}")
    found = f"{new.score.value:.3g} against {champion.score.value:.3g}"
    if new.score.value > champion.score.value:
        return Decision(True, f"its {new.score.metric} is better, {found}")
    return Decision(False, f"{now}, whose {new.score.metric} is no worse: {found}")


def settle(client: Any, version: Any, policy: Promotion) -> str:
    """Makes a new version champion or challenger as the policy says; returns a sentence about it."""
    model = client.get_registered_model(version.name)
    alias = _alias_for(client, model, version.tags.get("base", ""))
    mine = _standing(client, model, alias, version)
    holder = _holder(client, model, alias)
    if holder is not None and holder.version == version.version:
        return f"{version.name}@{version.version} is {alias} already"
    decision = decide(policy, version.name, mine, None if holder is None else _standing(client, model, alias, holder))
    if not decision.promoted:
        _point(client, version, CHALLENGER, BY, decision.why)
        return f"{version.name}@{version.version} waits as {CHALLENGER}; {decision.why}"
    client.set_registered_model_tag(version.name, OURS.format(alias=alias), str(version.version))
    _point(client, version, alias, BY, decision.why)
    return f"{version.name}@{version.version} is {alias}; {decision.why}"


def score_of(version: Any) -> Score | None:
    """The score that was written on a version last."""
    score = version.tags.get(SCORE)
    return None if score is None else Score(**json.loads(score))


def change_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """The tags of a version whose card has these metrics: none, or that it has learned nothing visible."""
    note = unchanged_note(metrics)
    return {CHANGED_NOTHING: note} if note else {}


def is_unchanged(version: Any) -> bool:
    """Whether a version has learned nothing visible, as was found when it was registered."""
    return CHANGED_NOTHING in version.tags


def write_score(client: Any, name: str, number: int, score: Score) -> None:
    """Writes a score on a version, in place of the one before."""
    client.set_model_version_tag(name, str(number), SCORE, json.dumps(asdict(score)))


def settle_version(client: Any, name: str, number: int, policy: Promotion, score: Score | None) -> str:
    """`settle` for a version that is registered already, whose score is written down first."""
    if score is not None:
        write_score(client, name, number, score)
    return settle(client, _version(client, name, number), policy)


def promote(client: Any, name: str, number: int, alias: str | None = None) -> str:
    """Points an alias at a version for a person, `champion` of its base by default; no submission moves it again.

    Returns a sentence about it. Raises NotFoundError, RequestError for an alias that cannot be one.
    """
    if alias is not None and (ALIAS.fullmatch(alias) is None or alias == "latest"):
        raise RequestError(f"{alias!r} is no alias; lower-case letters, digits, - and _ make one, a letter first")
    version = _version(client, name, number)
    model = client.get_registered_model(name)
    alias = alias or _alias_for(client, model, version.tags.get("base", ""))
    before = dict(model.aliases).get(alias)
    if OURS.format(alias=alias) in model.tags:
        client.delete_registered_model_tag(name, OURS.format(alias=alias))
    _point(client, version, alias, this_user(), "by hand")
    if str(dict(model.aliases).get(CHALLENGER)) == str(number) and alias.startswith(CHAMPION):
        client.delete_registered_model_alias(name, CHALLENGER)
    was = "nobody was" if before is None else f"it was {name}@{before}"
    return f"{name}@{number} is {alias} now; {was}"


def demote(client: Any, name: str, alias: str = CHAMPION) -> str:
    """Takes an alias away from whichever version has it. Raises NotFoundError if none has."""
    try:
        held = dict(client.get_registered_model(name).aliases).get(alias)
    except MlflowException as problem:
        if problem.error_code != ABSENT:
            raise
        raise NotFoundError(f"there is no adapter {name!r}; see: lorafleet adapters ls") from None
    if held is None:
        raise NotFoundError(f"no version of {name} is {alias}; see: lorafleet adapters ls")
    client.delete_registered_model_alias(name, alias)
    return f"{name}@{held} is no longer {alias}"


def alias_of_base(base: str) -> str:
    """The champion's alias for a base that is not the first one of a name."""
    return f"{CHAMPION}-{re.sub(r'[^a-z0-9]+', '-', base.lower()).strip('-')[-40:]}"


def _alias_for(client: Any, model: Any, base: str) -> str:
    """`champion`, unless that is taken by a version for another base."""
    holder = _holder(client, model, CHAMPION)
    return CHAMPION if holder is None or holder.tags.get("base", "") == base else alias_of_base(base)


def _holder(client: Any, model: Any, alias: str) -> Any:
    number = dict(model.aliases).get(alias)
    return None if number is None else client.get_model_version(model.name, number)


def _standing(client: Any, model: Any, alias: str, version: Any) -> Standing:
    ours = model.tags.get(OURS.format(alias=alias)) == str(version.version)
    return Standing(int(version.version), score_of(version), is_unchanged(version), ours)


def find_version(client: Any, name: str, wanted: str) -> Any:
    """A registered version by its number or an alias; None if there is none."""
    try:
        if wanted.isdecimal():
            return client.get_model_version(name, wanted)
        return client.get_model_version_by_alias(name, wanted)
    except MlflowException as problem:
        if problem.error_code not in (ABSENT, "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _version(client: Any, name: str, number: int) -> Any:
    version = find_version(client, name, str(number))
    if version is None:
        raise NotFoundError(f"there is no {name}@{number}; see: lorafleet adapters ls")
    return version


def _point(client: Any, version: Any, alias: str, by: str, why: str) -> None:
    client.set_registered_model_alias(version.name, alias, version.version)
    moved = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}
    client.set_model_version_tag(version.name, version.version, MOVED.format(alias=alias), json.dumps(moved))
