"""The objectives against diffusers' schedulers and the papers' own identities."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler

from lorafleet.bases import find_base
from lorafleet.config import Recipe
from lorafleet.numerics.objectives import EDMObjective, EpsilonObjective, objective_for

BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 4, 8, 8, generator=generator) for _ in range(3)]


def test_edm_input_and_loss_equal_diffusers_preconditioning(batch):
    z, n, output = batch
    z = z * 0.5
    objective, scheduler = EDMObjective(), EDMEulerScheduler(sigma_data=0.5)
    sigma = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0])
    noisy = objective.noisy(z, n, sigma)
    column = sigma[:, None, None, None]
    x = z + column * n
    torch.testing.assert_close(noisy.x, scheduler.precondition_inputs(x, column))
    torch.testing.assert_close(noisy.t, 0.25 * torch.log(sigma))
    D = scheduler.precondition_outputs(x, output, column)
    c_out = column * 0.5 / (column**2 + 0.25).sqrt()
    expected = ((D - z).square() / c_out**2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(objective.loss(output, z, n, noisy), expected, rtol=1e-4, atol=1e-5)


def test_edm_weight_makes_the_loss_a_plain_error_of_the_network(batch):
    """lambda = 1 / c_out^2 turns the loss into |F - (z - c_skip x) / c_out|^2 (Karras et al. 2022, eq. 8)."""
    z, n, output = (t.double() for t in batch)
    objective = EDMObjective()
    sigma = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0], dtype=torch.float64)
    noisy = objective.noisy(z, n, sigma)
    s = sigma[:, None, None, None]
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    target = (z - c_skip * (z + s * n)) / c_out
    expected = (output.float() - target).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(objective.loss(output, z, n, noisy), expected, rtol=1e-5, atol=1e-8)


def test_edm_levels_are_lognormal():
    sigma = EDMObjective().draw(200_000, torch.Generator().manual_seed(0))
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.01)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.01)


def test_edm_min_snr_caps_the_weight_of_small_noise_only(batch):
    z, n, output = batch
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 10.0])  # SNR = 0.25 / sigma^2: 2500, 25, 1, 0.25, 0.0025
    plain, capped = EDMObjective(), EDMObjective(gamma=5.0)
    noisy = plain.noisy(z, n, sigma)
    ratio = capped.loss(output, z, n, noisy) / plain.loss(output, z, n, noisy)
    torch.testing.assert_close(ratio, torch.tensor([6 / 2501, 6 / 26, 1.0, 1.0, 1.0]), rtol=1e-3, atol=1e-6)


def test_epsilon_input_and_loss_equal_diffusers(batch):
    z, n, output = batch
    scheduler = DDPMScheduler(**BETAS)
    objective = EpsilonObjective.of(BETAS, None)
    t = torch.tensor([0, 10, 400, 800, 999])
    noisy = objective.noisy(z, n, t)
    torch.testing.assert_close(noisy.x, scheduler.add_noise(z, n, t))
    torch.testing.assert_close(objective.loss(output, z, n, noisy), (output - n).square().mean(dim=(1, 2, 3)))


def test_epsilon_min_snr_is_min_snr_gamma_over_snr(batch):
    z, n, output = batch
    t = torch.tensor([0, 10, 400, 800, 999])
    plain, weighted = EpsilonObjective.of(BETAS, None), EpsilonObjective.of(BETAS, 5.0)
    noisy = plain.noisy(z, n, t)
    abar = DDPMScheduler(**BETAS).alphas_cumprod[t]
    snr = abar / (1 - abar)
    expected = torch.minimum(snr, torch.tensor(5.0)) / snr
    torch.testing.assert_close(weighted.loss(output, z, n, noisy) / plain.loss(output, z, n, noisy), expected)


def test_the_family_comes_from_the_scheduler_not_from_the_name(tmp_path):
    """A renamed copy of an EDM base is still trained as one."""
    base = find_base("toy-playground")
    (tmp_path / "my-model").symlink_to(base.path)
    renamed = find_base(str(tmp_path / "my-model"))
    assert isinstance(objective_for(renamed, Recipe()), EDMObjective)
    assert isinstance(objective_for(find_base("toy-sdxl"), Recipe()), EpsilonObjective)
