"""Rankings of votes: strengths as the likelihood has them, intervals that cover, and what cannot be compared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet_serve.sheet.ranking import FEWEST, Compared, fit, rank


def chance(theta, i, j):
    return 1 / (1 + np.exp(theta[j] - theta[i]))


def simulated(theta, each, ties, rng):
    """`each` votes on every pair by voters who prefer i to j as Bradley and Terry say, and at times neither."""
    votes = []
    for i in range(len(theta)):
        for j in range(i):
            for _ in range(each):
                decided = "a" if rng.random() < chance(theta, i, j) else "b"
                votes.append(Compared(str(i), str(j), "equal" if rng.random() < ties else decided))
    return votes


def expected_strengths(theta, ties):
    """What endless votes of such voters come to, with ties as half wins."""
    k = len(theta)
    wins = np.array([[0.0 if i == j else (1 - ties) * chance(theta, i, j) + ties / 2 for j in range(k)]
                     for i in range(k)])  # fmt: skip
    return fit(1e7 * wins)


@pytest.mark.parametrize(
    ("theta", "each", "ties"),
    [([0.5, -0.5], 20, 0.0), ([0.0, 0.0], 30, 0.3), ([0.8, 0.0, -0.8], 10, 0.0), ([0.8, 0.0, -0.8], 12, 0.25)],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(theta, each, ties):
    rng = np.random.default_rng(5)
    truth, inside = expected_strengths(np.array(theta), ties), []
    for _ in range(200):
        (ranking,) = rank(simulated(theta, each, ties, rng))
        inside += [one.low <= truth[int(one.name)] <= one.high for one in ranking.standings]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_the_lead_s_interval_covers_too():
    rng, theta = np.random.default_rng(7), [0.9, 0.2, -1.1]  # far enough apart to come out in this order
    truth = expected_strengths(np.array(theta), 0.1)
    leads = [rank(simulated(theta, 25, 0.1, rng))[0] for _ in range(200)]
    inside = [one.lead[1] <= truth[0] - truth[1] <= one.lead[2] for one in leads if one.standings[0].name == "0"]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_who_wins_every_vote_wins_though_all_strengths_are_uncertain():
    votes = [Compared(*pair, "a") for pair in (("a", "b"), ("b", "c"), ("a", "c")) for _ in range(8)]
    assert rank(votes)[0].winner.name == "a"


def test_a_clear_preference_is_found_and_an_absent_one_seldom():
    rng = np.random.default_rng(6)
    clear = [rank(simulated([1.0, -1.0], 20, 0.1, rng))[0].winner for _ in range(100)]
    assert np.mean([winner is not None and winner.name == "0" for winner in clear]) > 0.9
    even = [rank(simulated([0.0, 0.0], 20, 0.1, rng))[0].winner for _ in range(100)]
    assert np.mean([winner is not None for winner in even]) < 0.12


def test_strengths_solve_the_likelihood_s_equations():
    wins = np.array([[0, 3, 5.5], [2, 0, 4], [1.5, 1, 0]])
    theta = fit(wins)
    with_tie = wins + (1 - np.eye(3)) * 0.25
    counts = with_tie + with_tie.T
    expected = [sum(counts[i, j] * chance(theta, i, j) for j in range(3) if j != i) for i in range(3)]
    np.testing.assert_allclose(expected, with_tie.sum(1), rtol=1e-7)
    assert abs(theta.mean()) < 1e-12


def test_two_contestants_have_the_closed_form():
    ranking = rank([Compared("a", "b", "a")] * 9 + [Compared("a", "b", "b")] * 3)[0]
    np.testing.assert_allclose(ranking.standings[0].theta * 2, np.log(9.5 / 3.5), rtol=1e-6)
    assert [(one.name, one.votes, one.wins) for one in ranking.standings] == [("a", 12, 9.0), ("b", 12, 3.0)]


@pytest.mark.parametrize("votes", range(1, 12))
def test_a_unanimous_winner_needs_six_votes_and_stays_finite(votes):
    (ranking,) = rank([Compared("a", "b", "a")] * votes)
    assert (ranking.winner is not None) == (votes >= FEWEST)
    share, low, high = ranking.standings[0].share
    assert 0.5 < share < 1
    assert low < share < high < 1
    if ranking.winner is None:
        assert 1 <= ranking.votes_missing <= 10


def test_ties_alone_make_nobody_win():
    (ranking,) = rank([Compared("a", "b", "equal")] * 40)
    assert ranking.winner is None
    assert ranking.votes_missing is None
    assert ranking.lead[1] < 0 < ranking.lead[2]
    assert all(one.theta == pytest.approx(0) and one.low < 0 < one.high for one in ranking.standings)


def test_what_no_chain_of_votes_connects_is_ranked_apart():
    votes = [Compared("a", "b", "a"), Compared("b", "c", "a"), Compared("x", "y", "b")]
    assert [[one.name for one in ranking.standings] for ranking in rank(votes)] == [["a", "b", "c"], ["y", "x"]]
    assert rank([]) == []
    with pytest.raises(ValueError, match="itself"):
        rank([Compared("a", "a", "a")])


def test_the_votes_that_are_missing_do_suffice():
    """Where more votes go on in the same proportion, so many as were said make a winner, give or take."""
    votes = [Compared("a", "b", "a")] * 13 + [Compared("a", "b", "b")] * 7
    missing = rank(votes)[0].votes_missing
    times = 1 + missing / len(votes)

    def winner(factor):
        return rank([Compared("a", "b", "a")] * round(13 * factor) + [Compared("a", "b", "b")] * round(7 * factor))[
            0
        ].winner

    assert winner(1.3 * times) is not None
    assert winner(0.7 * times) is None


NAMES = st.sampled_from("abcd")
VOTES = st.lists(
    st.tuples(NAMES, NAMES, st.sampled_from(["a", "b", "equal"])).filter(lambda vote: vote[0] != vote[1]),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(VOTES, st.randoms())
def test_neither_order_nor_sides_matter(votes, random):
    other = {"a": "b", "b": "a", "equal": "equal"}
    turned = [(b, a, other[outcome]) if random.random() < 0.5 else (a, b, outcome) for a, b, outcome in votes]
    random.shuffle(turned)
    one, two = (
        {
            standing.name: standing
            for ranking in rank([Compared(*vote) for vote in some])
            for standing in ranking.standings
        }
        for some in (votes, turned)
    )
    assert one.keys() == two.keys()
    for name, standing in one.items():
        assert standing.low <= standing.theta <= standing.high
        for value in ("theta", "low", "high"):
            assert getattr(standing, value) == pytest.approx(getattr(two[name], value), abs=0.02)
