"""Functions that are recorded: their buffers hold what each call writes, and what cannot be recorded is called."""

import logging

import pytest
import torch

from lorafleet.numerics.captured import CapturedCalls, PlainCalls

CPU = torch.device("cpu")


def product(inputs):
    x, w = inputs["x"], inputs["w"].detach().requires_grad_()
    loss = (x @ w).square().sum()
    return loss.detach(), *torch.autograd.grad(loss, [w])


def inputs_of(seed, rows=3, device=CPU):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*s, generator=generator).to(device) for name, s in (("x", (rows, 4)), ("w", (4, 2)))}


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)])
def test_each_call_gives_what_the_function_gives(device):
    calls = CapturedCalls(device)
    for seed, rows in [(0, 3), (1, 3), (2, 5), (3, 3), (4, 5)]:
        inputs = inputs_of(seed, rows, device)
        before = {name: value.clone() for name, value in inputs.items()}
        outputs = [output.clone() for output in calls(rows, product, inputs)]
        for ours, right in zip(outputs, PlainCalls()(rows, product, inputs), strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
        assert all(torch.equal(inputs[name], before[name]) for name in inputs)
    assert calls.recorded == 2


def test_the_function_of_a_key_is_that_of_its_first_call():
    calls = CapturedCalls(CPU)
    calls("k", product, inputs_of(0))
    calls("k", None, inputs_of(1))  # as when a graph is replayed, which no longer knows it


def test_another_shape_or_name_under_a_key_is_a_defect_that_is_told():
    calls = CapturedCalls(CPU)
    calls("k", product, inputs_of(0))
    with pytest.raises(ValueError, match=r"x was recorded as torch.float32 \[3, 4\], and is torch.float32 \[5, 4\]"):
        calls("k", product, inputs_of(0, rows=5))
    with pytest.raises(ValueError, match="recorded with x, w, called with x"):
        calls("k", product, {"x": inputs_of(0)["x"]})


def test_what_was_not_used_for_long_is_forgotten():
    calls = CapturedCalls(CPU, most=2)
    for key in ("a", "b", "a", "c"):
        calls(key, product, inputs_of(0))
    assert calls.recorded == 2
    calls("a", None, inputs_of(1))


def test_what_does_not_fit_beside_others_is_recorded_in_their_place(caplog):
    calls, tries = CapturedCalls(CPU), []

    def large(inputs):
        return product(inputs)

    class Scarce(dict):
        """Inputs whose copies fit only once nothing else is kept."""

        def items(self):
            tries.append(calls.recorded)
            if calls.recorded:
                raise torch.OutOfMemoryError("no room")
            return super().items()

    calls("small", product, inputs_of(0))
    calls("large", large, Scarce(inputs_of(1)))
    assert tries[:2] == [1, 0]
    assert calls.recorded == 1
    assert not caplog.records


def test_what_cannot_be_recorded_is_called_and_said_once(caplog):
    calls, count = CapturedCalls(CPU), []

    class Large(dict):
        def items(self):
            raise torch.OutOfMemoryError("no room\nfor it")

    def counted(inputs):
        count.append(1)
        return product(inputs)

    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            outputs = calls("k", counted, Large(inputs_of(seed)))
            assert torch.equal(outputs[0], product(inputs_of(seed))[0])
    assert len(count) == 3
    assert [record.message for record in caplog.records] == [
        "a step of this shape cannot be recorded (no room); it is called each time, which is slower"
    ]


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)])
def test_gradients_go_through_a_recorded_function(device):
    """As through the function itself; the second call is a replay, and asks for other gradients."""
    calls = CapturedCalls(device)
    for seed in range(3):
        inputs = inputs_of(seed, device=device)
        results = []
        for how in (calls, PlainCalls()):
            w = inputs["w"].clone().requires_grad_()
            doubled = 2 * w  # the gradient goes on to what the variables were made of
            y, z = how.differentiable("k", two_outputs, {"x": inputs["x"]}, {"w": doubled})
            (grad,) = torch.autograd.grad((seed + 1) * y.square().sum() + z.sum(), [w])
            results.append((y.detach(), z.detach(), grad))
        for ours, right in zip(*results, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
    assert calls.recorded == 2


def two_outputs(inputs):
    y = torch.tanh(inputs["x"] @ inputs["w"])
    return y, y.cumsum(dim=1)


def test_where_no_gradient_is_wanted_only_the_way_forward_is_recorded():
    calls, inputs = CapturedCalls(CPU), inputs_of(0)
    first, _ = calls.differentiable("k", two_outputs, {"x": inputs["x"]}, {"w": inputs["w"]})
    kept = first.clone()
    calls.differentiable("k", two_outputs, {"x": -inputs["x"]}, {"w": inputs["w"]})
    assert torch.equal(first, kept), "outputs are the caller's to keep"
    assert calls.recorded == 1


@pytest.mark.gpu
def test_after_everything_was_forgotten_it_is_recorded_again():
    """The memory that graphs share goes with the last of them."""
    device = torch.device("cuda")
    calls = CapturedCalls(device)
    for seed in range(2):
        inputs = inputs_of(seed, device=device)
        outputs = calls("k", product, inputs)
        torch.testing.assert_close(outputs[0], product(inputs)[0], rtol=1e-5, atol=1e-5)
        assert calls.recorded == 1
        calls.clear()
        del outputs
