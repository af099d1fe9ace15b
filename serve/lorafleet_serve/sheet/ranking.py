"""From votes to a ranking with intervals: Bradley-Terry with ties as half wins, profile-likelihood intervals. Pure.

P(i is preferred to j) = 1 / (1 + exp(theta_j - theta_i)) (Bradley and Terry 1952); a tie counts half a win for each.
Only differences of thetas mean anything, so each is given against the mean of its ranking. To every contestant one tie
is added, spread evenly over all others: it keeps a contestant that never lost at a finite strength, and is soon
outweighed. An interval is where twice the loss of log-likelihood, with the other thetas at their best, stays below
3.84 times 1 - the share of ties: a tie is half a win for certain, so votes with ties scatter less than coins do.

Whether the first is the winner is asked of its lead over the second, whose interval is narrower than the two of them
suggest: both strengths are measured against the same mean.

Contestants that no chain of votes connects cannot be compared; each connected group is a ranking of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["a", "b", "equal"]
Array = NDArray[np.float64]
QUANTILE = 3.841458820694124
"""The 95 % quantile of chi-squared with one degree of freedom."""
FEWEST = 6
"""Votes without which nobody is called the winner: of fewer, a coin gives all to one side more than 1 time in 20."""
HOPELESS = 2000
"""More votes than this nobody casts."""
NEWTON_STEPS, TOLERANCE, BISECTIONS, FARTHEST = 50, 1e-9, 40, 30.0


@dataclass(frozen=True)
class Compared:
    """One vote: what was compared, and which was preferred."""

    a: str
    b: str
    outcome: Outcome


@dataclass(frozen=True)
class Standing:
    """One contestant's place."""

    name: str
    votes: int
    wins: float
    """Ties count a half."""
    theta: float
    low: float
    high: float
    """The 95 % interval of theta."""

    @property
    def share(self) -> tuple[float, float, float]:
        """How often it is preferred to one of average strength: the estimate, and the interval's ends."""
        return _logistic(self.theta), _logistic(self.low), _logistic(self.high)


@dataclass(frozen=True)
class Ranking:
    """Contestants that votes connect, the best first."""

    standings: tuple[Standing, ...]
    votes: int
    lead: tuple[float, float, float]
    """The first one's theta less the second's: the estimate, and the 95 % interval's ends."""

    @property
    def lead_share(self) -> tuple[float, float, float]:
        """How often the first is preferred to the second: the estimate, and the interval's ends."""
        estimate, low, high = self.lead
        return _logistic(estimate), _logistic(low), _logistic(high)

    @property
    def winner(self) -> Standing | None:
        """The first, if the interval of its lead is clear of 0 and it has been in enough votes."""
        first = self.standings[0]
        return first if self.lead[1] > 0 and first.votes >= FEWEST else None

    @property
    def votes_missing(self) -> int | None:
        """Roughly how many more votes would make the first the winner, as it stands now; None for hopelessly many.

        Intervals shrink with the square root of the votes.
        """
        estimate, low, _ = self.lead
        if estimate <= 0 or (more := self.votes * (((estimate - low) / estimate) ** 2 - 1)) > HOPELESS:
            return None
        return max(1, FEWEST - self.standings[0].votes, int(np.ceil(more)))


def rank(votes: Sequence[Compared]) -> list[Ranking]:
    """One ranking for each group of contestants that votes connect, the largest first; none for no votes.

    ValueError for a contestant that is compared with itself.
    """
    for vote in votes:
        if vote.a == vote.b:
            raise ValueError(f"{vote.a!r} is compared with itself; compare two contestants")
    rankings = [_ranked(group, [vote for vote in votes if vote.a in group]) for group in _connected(votes)]
    return sorted(rankings, key=lambda ranking: -len(ranking.standings))


def fit(wins: Array) -> Array:
    """Strengths [k], of mean 0, that make wins [k, k] most likely; wins[i, j] is how often i was preferred to j."""
    return _fitted(_with_ties(wins))


def _ranked(group: Sequence[str], votes: Sequence[Compared]) -> Ranking:
    place = {name: i for i, name in enumerate(group)}
    wins = np.zeros((len(group), len(group)))
    for vote in votes:
        a, b = place[vote.a], place[vote.b]
        share = {"a": 1.0, "equal": 0.5, "b": 0.0}[vote.outcome]
        wins[a, b] += share
        wins[b, a] += 1 - share
    ties = sum(vote.outcome == "equal" for vote in votes)
    scatter = 1 - ties / (len(votes) + 2)
    prior = _with_ties(wins)
    best = _fitted(prior)
    standings = []
    for name, i in place.items():
        low, high = _interval(prior, best, np.eye(len(group))[i] - 1 / len(group), QUANTILE * scatter)
        count = round(float(wins[i].sum() + wins[:, i].sum()))
        standings.append(Standing(name, count, float(wins[i].sum()), float(best[i]), low, high))
    standings.sort(key=lambda one: (-one.theta, one.name))
    first, second = (np.eye(len(group))[place[one.name]] for one in standings[:2])
    low, high = _interval(prior, best, first - second, QUANTILE * scatter)
    return Ranking(tuple(standings), len(votes), (standings[0].theta - standings[1].theta, low, high))


def _connected(votes: Sequence[Compared]) -> list[list[str]]:
    group_of: dict[str, list[str]] = {}
    for vote in votes:
        a, b = (group_of.setdefault(name, [name]) for name in (vote.a, vote.b))
        if a is not b:
            a += b
            group_of |= dict.fromkeys(b, a)
    return list({id(group): group for group in group_of.values()}.values())


def _with_ties(wins: Array) -> Array:
    """The added tie: k - 1 others share one, half a win each way."""
    k = len(wins)
    return wins + (1 - np.eye(k)) * 0.5 / (k - 1)


def _fitted(wins: Array, start: Array | None = None, held: tuple[Array, float] | None = None) -> Array:
    """Maximises the likelihood by Newton's method; with `held` (a, t) under the constraint a . theta = t."""
    k = len(wins)
    theta = np.zeros(k) if start is None else start.copy()
    if held is not None:
        a, t = held
        theta += a * (t - a @ theta) / (a @ a)
    for _ in range(NEWTON_STEPS):
        gradient, information = _derivatives(wins, theta)
        step = _newton_step(gradient, information, None if held is None else held[0])
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        theta = theta + step
        if np.abs(step).max() < TOLERANCE:
            break
    return np.asarray(theta - theta.mean(), dtype=np.float64)


def _newton_step(gradient: Array, information: Array, a: Array | None) -> Array:
    """The step within the plane of mean 0, and of a . step = 0; ones fill the direction that has no information."""
    k = len(gradient)
    if a is None:
        return _solved(information + 1 / k, gradient)
    system = np.block([[information + 1 / k, a[:, None]], [a[None], np.zeros((1, 1))]])
    return _solved(system, np.append(gradient, 0.0))[:k]


def _solved(matrix: Array, right: Array) -> Array:
    return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)


def _derivatives(wins: Array, theta: Array) -> tuple[Array, Array]:
    """The log-likelihood's gradient [k] and Fisher information [k, k]."""
    p = 1 / (1 + np.exp(theta[None] - theta[:, None]))  # [i, j]: i is preferred to j
    counts = wins + wins.T
    weights = counts * p * (1 - p)
    return (wins - counts * p).sum(1), np.diag(weights.sum(1)) - weights


def _log_likelihood(wins: Array, theta: Array) -> float:
    return float(-(wins * np.logaddexp(0, theta[None] - theta[:, None])).sum())


def _interval(wins: Array, best: Array, a: Array, allowed: float) -> tuple[float, float]:
    """Where the profile of the contrast a . theta, whose weights add up to 0, loses at most half of `allowed`."""
    top, state = _log_likelihood(wins, best), best.copy()

    def inside(t: float) -> bool:
        nonlocal state
        state = _fitted(wins, state, (a, t))
        return 2 * (top - _log_likelihood(wins, state)) <= allowed

    estimate = float(a @ best)
    return _edge(inside, estimate, -1.0), _edge(inside, estimate, 1.0)


def _edge(inside: Callable[[float], bool], start: float, direction: float) -> float:
    """The last value in a direction that is inside, by bisection; at most FARTHEST away."""
    near, far = 0.0, 0.5
    while inside(start + direction * far) and far < FARTHEST:
        near, far = far, 2 * far
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        near, far = (middle, far) if inside(start + direction * middle) else (near, middle)
        if far - near < 1e-3:
            break
    return start + direction * near


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
