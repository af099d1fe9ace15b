"""A sweep: recipe keys at several points, and when points that score badly are ended. Knows keys and values only.

    sweep: {rank: [4, 16], pivotal.tokens: [1, 4]}                              grid: every combination
    sweep: {points: [{rank: 4}, {rank: 16, pivotal.tokens: 4}]}                 a list
    sweep: {random: {count: 12, seed: 0, space: {rank: {choice: [4, 8]}}}}      draws

Refuses to know which keys a recipe has, what they come to (`lorafleet_jobs.intake.presets`) and how scores are made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from lorafleet.config.parts import MAX_STEPS
from lorafleet.config.strict import Strict

Point = dict[str, Any]
"""Recipe keys, inner ones as `outer.inner`, and their values at one point."""
DIGITS = 6
"""Significant digits of a drawn number: short to read, and independent of the last bit of a machine's exp."""


class GridSweep(RootModel[dict[str, list[Any]]]):
    """Every combination of the values of its keys; without keys one empty point, which is no sweep."""

    model_config = ConfigDict(frozen=True)

    @property
    def count(self) -> int:
        """The number of points."""
        return math.prod(len(values) for values in self.root.values())

    def points(self) -> Iterator[Point]:
        """The points in the order written."""
        return (dict(zip(self.root, values, strict=True)) for values in product(*self.root.values()))


class PointsSweep(Strict):
    """A list of points."""

    listed: Annotated[tuple[Point, ...], Field(alias="points", min_length=1)]
    """Mappings of recipe keys to values, inner keys as `outer.inner`."""

    @property
    def count(self) -> int:
        """The number of points."""
        return len(self.listed)

    def points(self) -> Iterator[Point]:
        """The points in the order written."""
        return iter(self.listed)


class Choice(Strict):
    """One value of a list, all equally likely."""

    values: Annotated[tuple[Any, ...], Field(alias="choice", min_length=1)]
    """The values."""

    def draw(self, u: float) -> Any:
        """The value for u in [0, 1)."""
        return self.values[int(u * len(self.values))]


class Uniform(Strict):
    """Uniform between two numbers."""

    between: Annotated[tuple[float, float], Field(alias="uniform")]
    """The lowest and the highest."""

    @model_validator(mode="after")
    def _ascends(self) -> Uniform:
        _check_ascending(self.between)
        return self

    def draw(self, u: float) -> float:
        """The value for u in [0, 1)."""
        low, high = self.between
        return _short(low + u * (high - low), self.between)


class LogUniform(Strict):
    """Uniform in the logarithm, for what ranges over powers of ten: learning rates."""

    between: Annotated[tuple[float, float], Field(alias="log_uniform")]
    """The lowest, above 0, and the highest."""

    @model_validator(mode="after")
    def _ascends(self) -> LogUniform:
        if self.between[0] <= 0:
            raise ValueError(f"log_uniform begins at {self.between[0]:g}; it takes numbers above 0, or use uniform")
        _check_ascending(self.between)
        return self

    def draw(self, u: float) -> float:
        """The value for u in [0, 1)."""
        low, high = map(math.log, self.between)
        return _short(math.exp(low + u * (high - low)), self.between)


class Whole(Strict):
    """A whole number between two, both included, all equally likely."""

    between: Annotated[tuple[int, int], Field(alias="int")]
    """The lowest and the highest."""

    @model_validator(mode="after")
    def _ascends(self) -> Whole:
        _check_ascending(self.between)
        return self

    def draw(self, u: float) -> int:
        """The value for u in [0, 1)."""
        low, high = self.between
        return low + int(u * (high - low + 1))


DRAWS: dict[str, type[Choice | Uniform | LogUniform | Whole]] = {
    "choice": Choice, "uniform": Uniform, "log_uniform": LogUniform, "int": Whole,
}  # fmt: skip


def _read_draw(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) == 1 and (name := next(iter(value))) in DRAWS:
        return DRAWS[name].model_validate(value)
    if isinstance(value, tuple(DRAWS.values())):
        return value
    raise ValueError(
        "allowed is one of {choice: [...]}, {uniform: [low, high]}, {log_uniform: [low, high]} and {int: [low, high]}"
    )


Draw = Annotated[Choice | Uniform | LogUniform | Whole, BeforeValidator(_read_draw)]


class RandomDraws(Strict):
    """How many points are drawn, from which values."""

    count: Annotated[int, Field(ge=1)]
    """How many points."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws."""
    space: Annotated[dict[str, Draw], Field(min_length=1)]
    """The distribution of each key's values."""


class RandomSweep(Strict):
    """Points drawn at random (Bergstra and Bengio 2012), the same ones every time.

    A value depends on the seed, the number of its point and its key alone: with a greater count or one more key the
    points that were there keep their values.
    """

    draws: Annotated[RandomDraws, Field(alias="random")]
    """The draws."""

    @property
    def count(self) -> int:
        """The number of points."""
        return self.draws.count

    def points(self) -> Iterator[Point]:
        """The points in the order drawn."""
        for i in range(self.count):
            yield {key: draw.draw(self._u(i, key)) for key, draw in self.draws.space.items()}

    def _u(self, i: int, key: str) -> float:
        return random.Random(f"sweep/{self.draws.seed}/{i}/{key}").random()


FORMS: dict[str, type[PointsSweep | RandomSweep]] = {"points": PointsSweep, "random": RandomSweep}


def _read_sweep(value: Any) -> Any:
    if isinstance(value, (GridSweep, PointsSweep, RandomSweep)):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("write recipe keys with lists of values, or points: [...], or random: {count, seed, space}")
    named = [key for key in value if key in FORMS]
    if named and len(value) > 1:
        others = ", ".join(str(key) for key in value if key != named[0])
        raise ValueError(f"{named[0]} stands alone, and here is {others} too; keep one of them")
    return (FORMS[named[0]] if named else GridSweep).model_validate(value)


Sweep = Annotated[GridSweep | PointsSweep | RandomSweep, BeforeValidator(_read_sweep)]


class EarlyStop(Strict):
    """Ends the points of a sweep that score badly, by asynchronous successive halving (Li et al. 2020, algorithm 2).

    At steps first, first * eta, first * eta^2 ... a job is scored, and ends there unless it is among the best 1/eta of
    its subject's jobs that have reached that step.
    """

    metric: Literal["score", "loss", "dino", "clip-i", "clip-t"] = "score"
    """What is compared. Of validation pictures: score by the toy world's judge, or dino, clip-i and clip-t by the
    encoder in `weights`. Without pictures: loss, over the last 20 steps."""
    eta: Annotated[int, Field(ge=2, le=10)] = 3
    """One job in this many goes on."""
    first: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """The step of the first comparison."""
    max: Annotated[int, Field(ge=2, le=MAX_STEPS)] | None = None
    """Jobs that reach this step are trained to the end; by default any job can be ended before its last step."""
    weights: Annotated[str, Field(min_length=1)] | None = None
    """The encoder's folder, as saved by transformers, relative to the manifest."""

    @model_validator(mode="after")
    def _keys_agree(self) -> EarlyStop:
        if self.max is not None and self.max <= self.first:
            raise ValueError(f"max is {self.max} and first {self.first}, so that nothing is compared; raise max")
        if self.needs_weights and self.weights is None:
            model = "facebook/dino-vits16" if self.metric == "dino" else "openai/clip-vit-base-patch32"
            raise ValueError(f"metric {self.metric} takes an encoder; give weights: FOLDER of {model}")
        if not self.needs_weights and self.weights is not None:
            raise ValueError(f"metric {self.metric} takes no weights; leave weights out, or use dino, clip-i or clip-t")
        return self

    @property
    def needs_weights(self) -> bool:
        """Whether the metric is computed by an encoder."""
        return self.metric in ("dino", "clip-i", "clip-t")

    @property
    def looks(self) -> bool:
        """Whether the metric is computed from pictures."""
        return self.metric != "loss"


def nested(point: Mapping[str, Any]) -> Point:
    """A point with `outer.inner` keys written out as mappings."""
    tree: Point = {}
    for key, value in point.items():
        outer, dot, inner = key.partition(".")
        if dot:
            tree.setdefault(outer, {})[inner] = value
        else:
            tree[key] = value
    return tree


def _check_ascending(between: tuple[float, float]) -> None:
    if between[0] > between[1]:
        raise ValueError(f"[{between[0]:g}, {between[1]:g}] runs downwards; write [low, high]")


def _short(value: float, between: tuple[float, float]) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), between[0]), between[1])
