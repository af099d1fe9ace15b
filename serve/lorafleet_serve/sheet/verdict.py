"""A ranking in words: who leads, whether that is certain, what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lorafleet_serve.sheet.ranking import Ranking
from lorafleet_serve.sheet.votes import Contestant


def sentence(ranking: Ranking, contestants: Mapping[str, Contestant], champions: Collection[str]) -> str:
    """One or two sentences about a ranking; `champions` are the adapters, NAME@VERSION, that are champion now."""
    first, second = ranking.standings[:2]
    how_often, low, high = (f"{100 * share:.0f}" for share in ranking.lead_share)
    if (winner := ranking.winner) is not None:
        known = contestants[winner.name]
        said = f"{winner.name} is preferred to {second.name}, the next, in {how_often} % of votes ({low} to {high})."
        if known.settings:
            return f"{said} Use {known.adapter} with {known.settings}."
        if known.adapter in champions:
            return f"{said} It is champion already."
        return f"{said} To make it champion: lorafleet adapters promote {known.adapter}"
    if first.theta == second.theta:
        return f"{first.name} and {second.name} are even so far; more votes are needed to tell them apart."
    missing = ranking.votes_missing
    if missing is None:
        return f"{first.name} and {second.name} are so close that thousands of votes would not tell them apart."
    said = f"{first.name} leads {second.name}, preferred in {how_often} % of votes ({low} to {high})"
    votes = "1 more vote is" if missing == 1 else f"{_roughly(missing)} more votes are"
    return f"{said}; that may be chance: about {votes} needed if it goes on like this."


def remarks(
    rankings: Sequence[Ranking], contestants: Mapping[str, Contestant], candidates: Collection[str]
) -> list[str]:
    """What the rankings leave open: groups that no votes connect, and `candidates`, NAME@VERSION, without votes."""
    if not rankings:
        return ["there are no votes yet; open a sheet's page, choose Blind vote, and export the votes"]
    said = []
    for i, ranking in enumerate(rankings):
        for other in rankings[i + 1 :]:
            if not _names(ranking, contestants).isdisjoint(_names(other, contestants)):
                here, there = (", ".join(one.name for one in group.standings) for group in (ranking, other))
                said.append(
                    f"no chain of votes leads from {here} to {there}, so they are ranked apart; vote on a pair with "
                    "one of each to rank them together"
                )
    voted = {one.adapter for one in contestants.values()}
    if unvoted := sorted(set(candidates) - voted):
        said.append(f"no votes yet on {', '.join(unvoted)}")
    return said


def _roughly(number: int) -> int:
    """With two digits that count."""
    return int(float(f"{number:.2g}"))


def _names(ranking: Ranking, contestants: Mapping[str, Contestant]) -> set[str]:
    return {contestants[one.name].adapter.partition("@")[0] for one in ranking.standings}
