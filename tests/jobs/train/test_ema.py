"""The average against its closed formula."""

import pytest
import torch
from torch import Tensor, nn

from lorafleet_jobs.train.ema import Average


class Held:
    """Stands where `TrainableState` does: two parameters, of which the second can be frozen."""

    def __init__(self) -> None:
        self.unet, self.tokens = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))

    def parameters(self) -> list[nn.Parameter]:
        return [self.unet, self.tokens]

    def go_to(self, value: float) -> None:
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(value)


def closed_form(values: list[float], decay: float) -> float:
    """Sum over t of p_t (1 - d_t) times all later d; the first value has whatever weight is left."""
    d = [min(decay, (1 + t) / (10 + t)) for t in range(1, len(values) + 1)]
    weights = [(1 - d[i] if i else 1.0) * float(torch.tensor(d[i + 1 :]).double().prod()) for i in range(len(values))]
    assert sum(weights) == pytest.approx(1)
    return sum(w * v for w, v in zip(weights, values, strict=True))


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_closed_formula(decay: float) -> None:
    held, average = Held(), Average(decay)
    values = [1.0, -2.0, 5.0, 5.0, 0.5, 3.0, -1.0]
    for value in values:
        held.go_to(value)
        average.update(held)
    with average.swapped_in(held):
        torch.testing.assert_close(held.unet, torch.full((3,), closed_form(values, decay)))
        torch.testing.assert_close(held.tokens, torch.full((2,), closed_form(values, decay)))
    assert torch.equal(held.unet, torch.full((3,), -1.0))


def test_what_is_frozen_is_never_replaced() -> None:
    held, average = Held(), Average(0.9)
    for value in (1.0, 2.0):
        held.go_to(value)
        average.update(held)
    held.tokens.requires_grad_(False)
    held.go_to(3.0)
    average.update(held)
    with average.swapped_in(held):
        assert torch.equal(held.tokens, torch.full((2,), 2.0))
        torch.testing.assert_close(held.unet, torch.full((3,), closed_form([1.0, 2.0, 3.0], 0.9)))


def test_nothing_is_swapped_before_the_first_step() -> None:
    held = Held()
    held.go_to(4.0)
    with Average(0.9).swapped_in(held):
        assert torch.equal(held.unet, torch.full((3,), 4.0))


def test_the_current_values_come_back_after_an_error_in_the_same_memory() -> None:
    held, average = Held(), Average(0.9)
    view: Tensor = held.unet.detach()[1:]
    for value in (1.0, 2.0):
        held.go_to(value)
        average.update(held)

    def fail() -> None:
        with average.swapped_in(held):
            assert view[0] != 2.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(view, torch.full((2,), 2.0))
