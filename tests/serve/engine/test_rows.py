"""A row's noise: a function of its seed and the number of the draw, also where a failed step is taken again."""

import torch

from lorafleet.numerics.sampling import Noise
from lorafleet_serve.engine.rows import RowNoise


def test_a_draw_may_be_asked_for_again_and_changes_none_after_it():
    noise, expected = RowNoise(7, (1, 2, 3), torch.device("cpu"), torch.float32), Noise([7], (1, 2, 3))
    draws = [expected.draw() for _ in range(4)]
    for number in (0, 1, 1, 1, 2, 3, 3):
        assert torch.equal(noise.draw(number), draws[number])


def test_a_draw_that_nobody_asked_for_is_passed_over():
    draws = [(noise := Noise([7], (1, 2, 3))).draw(), noise.draw(), noise.draw()]
    assert torch.equal(RowNoise(7, (1, 2, 3), torch.device("cpu"), torch.float32).draw(2), draws[2])
