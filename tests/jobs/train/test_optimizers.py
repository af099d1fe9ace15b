"""Trajectories on flat parameters against the same optimizer on separate matrices, as PEFT would hold them."""

from collections.abc import Callable

import lion_pytorch
import prodigyopt
import pytest
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from lorafleet.config import Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.train.optimizers import adaptive_rate, optimizer_for, phase_end, schedule_for
from lorafleet_jobs.train.trainable_state import ParameterSet

SHAPES = [torch.Size(s) for s in ((4, 12), (9, 4), (9,), (4, 9), (12, 4))]
TOKENS = torch.Size((2, 6))


class Held:
    """Stands where `TrainableState` does: flat factors and one token table, drawn from a seed."""

    def __init__(self, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.flat = nn.Parameter(torch.cat([torch.randn(s.numel(), generator=draws) for s in SHAPES]))
        self.tokens = nn.Parameter(torch.randn(TOKENS, generator=draws))

    def sets(self) -> list[ParameterSet]:
        return [
            ParameterSet("unet", [self.flat], [SHAPES]),
            ParameterSet("tokens", [self.tokens], [[TOKENS]]),
        ]

    def matrices(self) -> list[nn.Parameter]:
        sizes = [s.numel() for s in SHAPES]
        parts = [p.view(s) for p, s in zip(self.flat.detach().split(sizes), SHAPES, strict=True)]
        return [nn.Parameter(p.clone()) for p in (*parts, self.tokens.detach())]


def loss_of(flat: Tensor, tokens: Tensor, step: int) -> Tensor:
    """A bent bowl that moves with the step, so that no two gradients agree."""
    goal = torch.linspace(-1, 1, flat.numel()) * (1 + 0.1 * step)
    return ((flat - goal) ** 2).mean() + (flat[:6] * tokens).sin().mean() + tokens.square().mean()


def run_flat(recipe: Recipe, steps: int = 20, freeze_at: int | None = None) -> tuple[Tensor, Tensor]:
    held = Held()
    optimizer = optimizer_for(recipe, held)
    schedule = schedule_for(recipe, optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss_of(held.flat, held.tokens, step).backward()
        if freeze_at is not None and step >= freeze_at:
            held.tokens.grad = None
        optimizer.step()
        schedule.step()
    return held.flat.detach(), held.tokens.detach()


def run_matrices(
    make: Callable[[list[dict]], torch.optim.Optimizer], name: str, rates: tuple[float, float],
    steps: int = 20, warmup: int = 0, freeze_at: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    *factors, tokens = Held().matrices()
    optimizer = make([{"params": factors, "lr": rates[0]}, {"params": [tokens], "lr": rates[1]}])
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss_of(torch.cat([f.reshape(-1) for f in factors]), tokens, step).backward()
        if freeze_at is not None and step >= freeze_at:
            tokens.grad = None
        optimizer.step()
        schedule.step()
    return torch.cat([f.detach().reshape(-1) for f in factors]), tokens.detach()


REFERENCES = {
    "adamw": ((1e-4, 3e-4), lambda g: torch.optim.AdamW(g, betas=(0.9, 0.999), weight_decay=1e-4)),
    "lion": ((3e-5, 9e-5), lambda g: lion_pytorch.Lion(g, betas=(0.9, 0.99), weight_decay=3e-4)),
    "adafactor": ((1e-3, 3e-3), lambda g: torch.optim.Adafactor(g, weight_decay=0.0)),
    "prodigy": (
        (1.0, 1.0),
        lambda g: prodigyopt.Prodigy(
            g, betas=(0.9, 0.99), weight_decay=0.01, decouple=True, use_bias_correction=True, safeguard_warmup=True
        ),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 0), ("cosine", 4)])
def test_flat_is_as_good_as_matrices(name: str, schedule: str, warmup: int) -> None:
    rates, make = REFERENCES[name]
    ours = run_flat(Recipe(optimizer=name, lr_scheduler=schedule, warmup_steps=warmup))
    theirs = run_matrices(make, schedule, rates, warmup=warmup)
    start = Held()
    assert not torch.allclose(ours[0], start.flat, rtol=0, atol=1e-7)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 if name != "lion" else 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_set_without_gradient_stays_where_it_is(name: str) -> None:
    rates, make = REFERENCES[name]
    ours = run_flat(Recipe(optimizer=name), freeze_at=5)
    torch.testing.assert_close(ours, run_matrices(make, "constant", rates, freeze_at=5), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[1], run_flat(Recipe(optimizer=name), steps=5)[1], rtol=0, atol=0)


def test_adafactor_on_one_flat_vector_would_be_another_algorithm() -> None:
    held = Held()
    optimizer = torch.optim.Adafactor([held.flat, held.tokens], lr=1e-3)
    for step in range(20):
        optimizer.zero_grad()
        loss_of(held.flat, held.tokens, step).backward()
        optimizer.step()
    right = run_flat(Recipe(optimizer="adafactor", token_learning_rate=1e-3))
    assert (held.flat - right[0]).abs().max() > 1e-4


def test_adafactor_forgets_gradients_of_the_flat_parameters() -> None:
    held = Held()
    optimizer = optimizer_for(Recipe(optimizer="adafactor"), held)
    loss_of(held.flat, held.tokens, 0).backward()
    optimizer.step()
    before = held.flat.detach().clone()
    optimizer.zero_grad(set_to_none=True)
    assert held.flat.grad is None
    optimizer.step()
    assert torch.equal(held.flat, before)


def test_8_bit_adamw_is_bitsandbytes_or_says_what_to_install() -> None:
    recipe = Recipe(optimizer="adamw8bit")
    try:
        import bitsandbytes
    except ImportError:
        with pytest.raises(ManifestError, match=r"pip install 'lorafleet\[gpu\]'"):
            optimizer_for(recipe, Held())
        return
    assert isinstance(optimizer_for(recipe, Held()), bitsandbytes.optim.AdamW8bit)
    near, exact = run_flat(recipe), run_flat(recipe.with_changes(optimizer="adamw"))
    torch.testing.assert_close(near, exact, rtol=0, atol=2e-4)


def test_prodigy_has_one_d_for_all_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    held = Held()
    optimizer = optimizer_for(Recipe(), held)
    assert adaptive_rate(optimizer) == 1e-6
    for step in range(8):
        optimizer.zero_grad()
        loss_of(held.flat, held.tokens, step).backward()
        optimizer.step()
    assert len({group["d"] for group in optimizer.param_groups}) == 1
    assert adaptive_rate(optimizer) > 1e-6
    assert capsys.readouterr().out == ""
    assert adaptive_rate(optimizer_for(Recipe(optimizer="adamw"), held)) is None


def test_options_reach_the_optimizer() -> None:
    options = {
        "weight_decay": 0.5, "betas": (0.5, 0.6), "beta3": 0.7, "d0": 1e-3, "d_coef": 2.0, "growth_rate": 1.02,
        "decouple": False, "bias_correction": False, "safeguard_warmup": False,
    }  # fmt: skip
    group = optimizer_for(Recipe(optimizer_options=options), Held()).param_groups[1]
    assert group["use_bias_correction"] is options.pop("bias_correction")
    assert {key: group[key] for key in options} == options
    assert group["d"] == 1e-3
    group = optimizer_for(Recipe(optimizer="adamw", optimizer_options={"weight_decay": 0.0}), Held()).param_groups[0]
    assert (group["weight_decay"], group["betas"]) == (0.0, (0.9, 0.999))


@pytest.mark.parametrize(
    ("keys", "unet", "text", "tokens"),
    [
        ({"optimizer": "prodigy"}, 1.0, 1.0, 1.0),
        ({"optimizer": "prodigy", "learning_rate": 0.5}, 0.5, 0.5, 0.5),
        ({"optimizer": "adamw"}, 1e-4, 1e-4, 3e-4),
        ({"optimizer": "adamw", "learning_rate": 1e-3}, 1e-3, 1e-3, 3e-3),
        ({"optimizer": "lion"}, 3e-5, 3e-5, 9e-5),
        ({"optimizer": "adafactor", "text_encoder_learning_rate": 1e-4}, 1e-3, 1e-4, 3e-3),
        ({"optimizer": "adamw8bit", "token_learning_rate": 1e-2}, 1e-4, 1e-4, 1e-2),
    ],
)
def test_rates(keys: dict, unet: float, text: float, tokens: float) -> None:
    recipe = Recipe(**keys)
    found = [recipe.rate_of(kind) for kind in ("unet", "text", "tokens")]
    assert found == pytest.approx([unet, text, tokens], rel=1e-12)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [  # factors of steps 1 to 8, worked by hand
        ({"lr_scheduler": "constant"}, [1] * 8),
        ({"lr_scheduler": "constant", "warmup_steps": 4}, [0, 1 / 4, 1 / 2, 3 / 4, 1, 1, 1, 1]),
        ({"lr_scheduler": "constant_with_warmup", "warmup_steps": 4}, [0, 1 / 4, 1 / 2, 3 / 4, 1, 1, 1, 1]),
        ({"lr_scheduler": "linear"}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"lr_scheduler": "linear", "warmup_steps": 4}, [0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 4, 1 / 2, 1 / 4]),
        ({"lr_scheduler": "cosine"}, [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_cycles": 2},
            [1, 0.853553, 0.5, 0.146447, 1, 0.853553, 0.5, 0.146447],
        ),
        (  # from 1e-4 to 1e-7: (1 - 1e-3) (1 - t/8)^2 + 1e-3
            {"lr_scheduler": "polynomial", "lr_power": 2.0},
            [0.999 * (1 - t / 8) ** 2 + 1e-3 for t in range(8)],
        ),
    ],
)  # fmt: skip
def test_schedules(keys: dict, wanted: list[float]) -> None:
    recipe = Recipe(optimizer="adamw", gradient_accumulation=4, **keys)
    optimizer = optimizer_for(recipe, Held())
    schedule = schedule_for(recipe, optimizer, 8)
    found = []
    for _ in range(8):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [f[0] / 1e-4 for f in found] == pytest.approx(wanted, abs=1e-6)
    assert [f[1] / 3e-4 for f in found] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("fraction", "steps", "end"), [(1.0, 7, 7), (0.5, 7, 4), (0.5, 8, 4), (0.01, 10, 1), (0.0, 10, 0), (0.25, 1, 1)]
)
def test_phases_end_after_their_fraction(fraction: float, steps: int, end: int) -> None:
    assert phase_end(fraction, steps) == end
