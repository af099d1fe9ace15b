"""Who is champion: as the policy says, never over a person's choice, one for each base, written down."""

import json
import uuid
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracked_jobs import bundle_at, job

from lorafleet.bundle.change import FROM_UNTRAINED
from lorafleet.bundle.ports import Score
from lorafleet.config.promotion_policy import Promotion
from lorafleet.errors import NotFoundError, RequestError
from lorafleet.tracking import MlflowRegistry
from lorafleet.tracking.promotion import Standing, alias_of_base, decide

NEW, OLD, UNCHANGED = Standing(3), Standing(2), Standing(3, unchanged=True)
BETTER, WORSE = Score("score", 0.61), Score("score", 0.58)


@pytest.mark.parametrize(
    ("policy", "new", "champion", "promoted", "why"),
    [
        ("first", NEW, None, True, "it is the first"),
        ("first", NEW, OLD, False, "champion is rex@2"),
        ("always", NEW, OLD, True, "the newest is always champion"),
        ("always", NEW, Standing(2, ours=False), False, "champion is rex@2, chosen by hand"),
        ("best", Standing(3, BETTER), Standing(2, WORSE, ours=False), False, "chosen by hand"),
        ("best", Standing(3, BETTER), Standing(2, WORSE), True, "its score is better, 0.61 against 0.58"),
        ("best", Standing(3, WORSE), Standing(2, BETTER), False, "is no worse: 0.58 against 0.61"),
        ("best", Standing(3, BETTER), Standing(2, BETTER), False, "is no worse: 0.61 against 0.61"),
        ("best", Standing(3, BETTER), Standing(2, Score("dino", 0.1)), False, "whose score is dino, not"),
        ("best", NEW, Standing(2, WORSE), False, "champion is rex@2"),
        ("best", NEW, None, True, "it is the first"),
        ("manual", NEW, None, False, "promotion is manual"),
        ("manual", NEW, OLD, False, "promotion is manual"),
        ("first", UNCHANGED, None, False, "it has learned nothing visible"),
        ("always", UNCHANGED, None, True, "it is the first"),
        ("always", UNCHANGED, OLD, False, "it has learned nothing visible; champion is rex@2"),
        ("best", Standing(3, BETTER, unchanged=True), Standing(2, WORSE), False, "learned nothing visible"),
    ],
)
def test_the_policy_decides(policy, new, champion, promoted, why):
    decision = decide(policy, "rex", new, champion)
    assert decision.promoted is promoted
    assert why in decision.why


scores = st.none() | st.builds(Score, st.sampled_from(["score", "dino"]), st.floats(0, 1))
standings = st.builds(Standing, st.integers(1, 9), scores, st.booleans(), st.booleans())


@given(st.sampled_from(get_args(Promotion)), standings, st.none() | standings)
def test_whatever_stands_there_an_unchanged_version_takes_no_place_and_no_choice_of_a_person_is_undone(
    policy, new, old
):
    decision = decide(policy, "rex", new, old)
    assert decision.why
    if decision.promoted:
        assert policy != "manual"
        assert old is None or (old.ours and not new.unchanged)
        assert not new.unchanged or policy == "always"
    if not new.unchanged:
        assert decision == decide(policy, "rex", new, None if old is None else replace(old, unchanged=False))


@pytest.fixture
def adapter(tracking, parent, home):
    """adapter(policy, base=...) registers another version of one name, new in each test; returns it."""
    name = f"rex-{uuid.uuid4().hex[:8]}"
    run = tracking.start_job(parent, job(name))

    def made(policy="first", base="toy-playground", **metrics):
        id_ = uuid.uuid4().hex[:16]
        return tracking.register(bundle_at(home / "bundles" / id_, name, id_, base, metrics), run, policy)

    return made


def aliases(tracking, adapter):
    return tracking.aliases([adapter.name])[adapter.name]


def test_the_first_is_champion_and_those_after_it_wait(tracking, adapter):
    first, second, third = adapter(), adapter(), adapter()
    assert aliases(tracking, first) == {"champion": 1, "challenger": 3}
    assert first.standing == f"{first.name}@1 is champion; it is the first"
    assert second.standing == f"{first.name}@2 waits as challenger; champion is {first.name}@1"
    assert third.aliases == ("challenger",)


def test_always_moves_what_a_submission_set_and_nothing_that_a_person_set(tracking, adapter):
    first, second = adapter("always"), adapter("always")
    assert aliases(tracking, first) == {"champion": 2}
    tracking.client.set_registered_model_alias(first.name, "champion", "1")  # as a person does on MLflow's page
    third = adapter("always")
    assert aliases(tracking, second) == {"champion": 1, "challenger": 3}
    assert third.standing.endswith(f"champion is {first.name}@1, chosen by hand")


def test_promoting_by_hand_lasts_and_is_written_down(tracking, adapter):
    first, _ = adapter(), adapter()
    assert tracking.promote(first.name, 2) == f"{first.name}@2 is champion now; it was {first.name}@1"
    assert aliases(tracking, first) == {"champion": 2}, "a challenger that won is none any more"
    adapter("always")
    assert aliases(tracking, first) == {"champion": 2, "challenger": 3}
    moved = json.loads(tracking.client.get_model_version(first.name, "2").tags["lorafleet.champion.moved"])
    assert moved["why"] == "by hand"
    assert moved["by"]
    assert moved["at"].endswith("+00:00")
    assert tracking.demote(first.name, "champion") == f"{first.name}@2 is no longer champion"
    with pytest.raises(NotFoundError, match=f"no version of {first.name} is champion"):
        tracking.demote(first.name, "champion")


def test_an_alias_of_ones_own_leaves_the_champion(tracking, adapter):
    first, _ = adapter(), adapter()
    tracking.promote(first.name, 2, "for-print")
    assert aliases(tracking, first) == {"champion": 1, "challenger": 2, "for-print": 2}
    for wrong in ("3", "latest", "Für Druck", ""):
        with pytest.raises(RequestError, match="is no alias"):
            tracking.promote(first.name, 2, wrong)
    with pytest.raises(NotFoundError, match=r"there is no .*@9"):
        tracking.promote(first.name, 9)
    with pytest.raises(NotFoundError, match="there is no adapter 'nobody'"):
        tracking.demote("nobody", "champion")


def test_each_base_has_a_champion_of_its_own(tracking, adapter, home):
    first, other = adapter(), adapter(base="toy-sdxl")
    adapter(base="toy-sdxl")
    assert aliases(tracking, first) == {"champion": 1, "champion-toy-sdxl": 2, "challenger": 3}
    for base, version in (("toy-playground", 1), ("toy-sdxl", 2), (None, 1), ("a third", 1)):
        registry = MlflowRegistry(tracking.uri, home / "cache", base=base)
        assert registry.resolve(other.name).version == version
    assert tracking.promote(first.name, 3).startswith(f"{first.name}@3 is champion-toy-sdxl now")
    assert alias_of_base("/models/My Base_v2") == "champion-models-my-base-v2"


def test_a_score_settles_it_where_the_policy_is_best(tracking, adapter):
    first, second = adapter(None), adapter(None)
    assert aliases(tracking, first) == {}, "without a policy nothing is settled"
    tracking.settle(first.name, 1, "best", WORSE)
    assert "0.61 against 0.58" in tracking.settle(second.name, 2, "best", BETTER)
    assert aliases(tracking, first) == {"champion": 2}
    assert tracking.settle(second.name, 2, "best", BETTER) == f"{second.name}@2 is champion already"


def test_one_that_learned_nothing_visible_waits_and_says_so_wherever_versions_are_shown(
    tracking, home, adapter, lorafleet, monkeypatch, capsys
):
    first = adapter(**{FROM_UNTRAINED: 0.31})
    assert first.standing.startswith(f"{first.name}@1 waits as challenger; its pictures are as before training")
    assert aliases(tracking, first) == {"challenger": 1}
    version = tracking.client.get_model_version(first.name, "1")
    assert "0.31 of 255" in version.tags["lorafleet.unchanged"]
    assert "**Unchanged**: its pictures are as before training" in version.description
    second = adapter(**{FROM_UNTRAINED: 9.0})
    assert (first.unchanged, second.unchanged) == (True, False)
    adapter("always", **{FROM_UNTRAINED: 1.9})
    assert aliases(tracking, first) == {"champion": 2, "challenger": 3}
    monkeypatch.setenv("LORAFLEET_HOME", str(home))
    assert lorafleet("adapters", "ls") == 0
    said = capsys.readouterr()
    assert said.out.split().count("nothing") >= 2
    assert "train with more steps" in said.err
    assert lorafleet("adapters", "ls", "--json") == 0
    own = [one for one in json.loads(capsys.readouterr().out)["adapters"] if one["name"] == first.name]
    assert [one["unchanged"] for one in own] == [True, False, True]


def test_the_commands_promote_demote_and_verify(tracking, home, adapter, lorafleet, monkeypatch, capsys):
    first, _ = adapter(), adapter()
    monkeypatch.setenv("LORAFLEET_HOME", str(home))
    assert lorafleet("adapters", "promote", f"{first.name}@2") == 0
    assert f"{first.name}@2 is champion now; it was {first.name}@1" in capsys.readouterr().out
    assert lorafleet("adapters", "promote", first.name) == 2
    assert "names no version" in capsys.readouterr().err
    assert lorafleet("adapters", "promote", f"{first.name}@7") == 3
    assert lorafleet("adapters", "demote", first.name) == 0
    assert lorafleet("adapters", "demote", first.name) == 3
    capsys.readouterr()
    assert lorafleet("adapters", "verify", f"{first.name}@1") == 1  # made up: its base is another
    said = capsys.readouterr().out
    assert f"{first.name}@1: " in said
