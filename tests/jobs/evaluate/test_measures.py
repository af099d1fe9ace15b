"""Scores and intervals against tables worked by hand and brute force."""

from itertools import combinations

import pytest
import torch

from lorafleet_jobs.evaluate import measures
from lorafleet_jobs.evaluate.bootstrap import interval, paired_difference


def unit(*degrees):
    angles = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_fidelity_is_the_mean_cosine_of_all_pairs():
    assert measures.fidelity(unit(0.0, 60.0), unit(0.0, 90.0)) == pytest.approx((1 + 0 + 0.5 + 3**0.5 / 2) / 4)


def test_top_1_asks_for_the_nearest_gallery_and_a_tie_is_a_miss():
    own, other = unit(0.0, 20.0), unit(80.0, 100.0)
    assert measures.top_1(unit(5.0, 95.0), own, [other]) == 0.5
    assert measures.top_1(unit(5.0), own, [own]) == 0.0
    assert measures.top_1(unit(5.0), own, [other, unit(5.0, 6.0)]) == 0.0  # one look-alike is enough


def test_mean_average_precision_by_hand():
    # From 0 degrees: own 10, other 20, own 30, other 40, own 50: AP = (1/1 + 2/3 + 3/5) / 3.
    own, others = unit(10.0, 30.0, 50.0), [unit(20.0), unit(40.0)]
    assert measures.mean_average_precision(unit(0.0), own, others) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # From 60: own 50, other 40, own 30, other 20, own 10, the same numbers.
    assert measures.mean_average_precision(unit(0.0, 60.0), own, others) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert measures.mean_average_precision(unit(0.0), unit(1.0, 2.0), others) == 1.0


def test_the_expected_nearest_of_a_random_subset_is_the_mean_over_all_subsets():
    similarities = torch.rand(3, 7, dtype=torch.float64)
    for count in (1, 3, 7):
        subsets = [similarities[:, list(chosen)].amax(dim=1) for chosen in combinations(range(7), count)]
        torch.testing.assert_close(measures.expected_nearest(similarities, count), torch.stack(subsets).mean(dim=0))


def test_memorisation_does_not_depend_on_how_many_pictures_there_are_of_each_kind():
    generator = torch.Generator().manual_seed(0)
    to_training, to_held_out = (torch.rand(4000, n, generator=generator) for n in (3, 30))
    assert abs(measures.memorisation(to_training, to_held_out)) < 0.01
    naive = float((to_training.amax(dim=1) - to_held_out.amax(dim=1)).mean())
    assert naive < -0.15


def test_leave_one_out_compares_with_how_near_training_pictures_are_to_each_other():
    among = torch.tensor([[1.0, 0.4, 0.2], [0.4, 1.0, 0.3], [0.2, 0.3, 1.0]])
    # The nearest of the others: 0.4, 0.4, 0.3. A copy of the first: expected nearest of two of {1, .4, .2} = .8.
    assert measures.memorisation_leave_one_out(among[:1], among) == pytest.approx(0.8 - 1.1 / 3)
    assert measures.memorisation_leave_one_out(torch.ones(2, 1), torch.ones(1, 1)) is None


def test_diversity_is_within_prompts_and_needs_two_samples():
    embeddings = torch.stack([unit(0.0, 60.0), unit(90.0, 90.0)])  # between the prompts lies a lot, and does not count
    assert measures.embedding_diversity(embeddings) == pytest.approx((0.5 + 0.0) / 2)
    pictures = torch.zeros(1, 3, 3, 4, 4)
    pictures[0, 1] = 0.5
    assert measures.pixel_diversity(pictures) == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert measures.embedding_diversity(embeddings[:, :1]) is None
    assert measures.pixel_diversity(pictures[:, :1]) is None


def test_pixel_similarity():
    a, b = torch.zeros(2, 3, 4, 4), torch.full((1, 3, 4, 4), 0.25)
    torch.testing.assert_close(measures.pixel_similarity(a, b), torch.full((2, 1), 0.75))


def test_an_interval_is_seeded_and_as_wide_as_the_standard_error_says():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).tolist()
    found = interval(values, seed=3)
    assert found == interval(values, seed=3)
    assert found != interval(values, seed=4)
    error = torch.tensor(values).std().item() / 400**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.mean == pytest.approx(sum(values) / 400)


def test_one_subject_has_no_interval_and_none_has_no_mean():
    assert interval([0.5]).as_json() == {"mean": 0.5, "low": None, "high": None, "subjects": 1}
    with pytest.raises(ValueError, match="no subjects"):
        interval([])


def test_a_paired_difference_sees_what_unpaired_intervals_hide():
    a = [float(i) for i in range(20)]
    b = [value - 0.1 - 0.01 * (i % 3) for i, value in enumerate(a)]
    found = paired_difference(a, b)
    assert 0 < found.low < found.mean < found.high < 0.13
    assert interval(a).low < interval(b).high
    with pytest.raises(ValueError, match="do not pair"):
        paired_difference(a, b[:-1])
