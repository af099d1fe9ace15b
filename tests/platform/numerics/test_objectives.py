"""The objectives against diffusers' schedulers, its training scripts' formulas, and the papers' own identities."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from lorafleet.bases import Base, find_base
from lorafleet.config import Recipe
from lorafleet.numerics.build_objective import build_objective
from lorafleet.numerics.edm import P_STD, mean_ln_sigma
from lorafleet.numerics.noise_levels import Lognormal, Uniform, karras_grid
from lorafleet.numerics.objectives import (
    ContinuousObjective,
    EDMObjective,
    EpsilonObjective,
    Timesteps,
    VPredictionObjective,
)  # fmt: skip
from lorafleet.numerics.weighting import Debiased, MinSNR, OnImage

BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TIMESTEPS = Timesteps.of(BETAS)
ANY = Uniform(TIMESTEPS.sigmas)
T = torch.tensor([0, 10, 400, 800, 999])
DOCS = Path(__file__).parents[3] / "docs"
SIGMAS = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0])


@pytest.fixture
def batch():
    """z, n and a network output."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 4, 8, 8, generator=generator) for _ in range(3)]


def loss(objective, output, z, n, sigma):
    """[n]: what the loop makes of an objective."""
    return objective.weight(sigma) * (output - objective.target(z, n, sigma)).square().mean(dim=(1, 2, 3))


def per_row(error):
    return error.mean(dim=(1, 2, 3))


def column(values):
    return values[:, None, None, None]


def made(prediction="epsilon", **recipe):
    """The objective of a base with timesteps, as a recipe chooses it."""
    scheduler = {"_class_name": "EulerDiscreteScheduler", "prediction_type": prediction, **BETAS}
    base = Base("a base", find_base("toy-sdxl").path)
    base.__dict__["scheduler"] = scheduler
    return build_objective(base, Recipe(**recipe))


# ---- epsilon and v


def test_epsilon_input_and_loss_equal_diffusers(batch):
    z, n, output = batch
    objective = EpsilonObjective(TIMESTEPS, ANY)
    sigma = TIMESTEPS.sigmas[T]
    noisy = objective.noisy(z, n, sigma)
    assert torch.equal(noisy.t, T)
    torch.testing.assert_close(noisy.x, DDPMScheduler(**BETAS).add_noise(z, n, T))
    torch.testing.assert_close(loss(objective, output, z, n, sigma), per_row((output - n).square()))


def test_v_input_and_loss_equal_diffusers(batch):
    z, n, output = batch
    scheduler, objective = DDPMScheduler(**BETAS), VPredictionObjective(TIMESTEPS, ANY)
    sigma = TIMESTEPS.sigmas[T]
    noisy = objective.noisy(z, n, sigma)
    torch.testing.assert_close(noisy.x, scheduler.add_noise(z, n, T))
    expected = per_row((output - scheduler.get_velocity(z, n, T)).square())
    torch.testing.assert_close(loss(objective, output, z, n, sigma), expected)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_is_the_papers_for_epsilon_and_for_v(gamma):
    """min(SNR, g) / SNR and min(SNR, g) / (SNR + 1), as diffusers' text_to_image script has them; the DreamBooth
    scripts still add 1 to the epsilon weight for v, which is nearly twice too much at large noise."""
    snr = compute_snr(DDPMScheduler(**BETAS), T)
    capped, sigma = torch.minimum(snr, torch.tensor(gamma)), TIMESTEPS.sigmas[T]
    epsilon = EpsilonObjective(TIMESTEPS, ANY, MinSNR(gamma)).weight(sigma)
    v = VPredictionObjective(TIMESTEPS, ANY, MinSNR(gamma)).weight(sigma)
    torch.testing.assert_close(epsilon, capped / snr, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(v, capped / (snr + 1), rtol=1e-4, atol=1e-6)
    assert (v < capped / snr + 1 - 0.9).all()


def test_zero_terminal_snr_is_finite(batch):
    z, n, output = batch
    timesteps = Timesteps.of({**BETAS, "rescale_betas_zero_snr": True})
    sigma = timesteps.sigmas[torch.tensor([999, 999, 500, 0, 999])]
    assert sigma[0].isinf()
    for family in (EpsilonObjective, VPredictionObjective):
        for weighting in (MinSNR(5.0), Debiased()):
            objective = family(timesteps, Uniform(timesteps.sigmas), weighting)
            noisy = objective.noisy(z, n, sigma)
            assert torch.equal(noisy.t, torch.tensor([999, 999, 500, 0, 999]))
            torch.testing.assert_close(noisy.x[0], n[0])
            assert loss(objective, output, z, n, sigma).isfinite().all()
    v = VPredictionObjective(timesteps, ANY)
    torch.testing.assert_close(v.target(z, n, sigma)[0], -z[0])


def test_debiased_is_one_over_root_snr_on_epsilon():
    snr = compute_snr(DDPMScheduler(**BETAS), T)
    weight = EpsilonObjective(TIMESTEPS, ANY, Debiased()).weight(TIMESTEPS.sigmas[T])
    torch.testing.assert_close(weight, snr.rsqrt(), rtol=1e-4, atol=1e-6)


def test_every_timestep_is_drawn_about_as_often():
    t = TIMESTEPS.nearest(EpsilonObjective(TIMESTEPS, ANY).draw(50_000, torch.Generator().manual_seed(0)))
    assert t.min() == 0
    assert t.max() == 999
    assert torch.histc(t.float(), 10, 0, 1000).min() > 4500


def test_lognormal_levels_of_a_base_with_timesteps_lie_on_its_schedule():
    drawn = EpsilonObjective(TIMESTEPS, Lognormal(0.0, 1.0)).draw(1000, torch.Generator().manual_seed(0))
    assert torch.isin(drawn, TIMESTEPS.sigmas).all()
    assert drawn.log().mean().item() == pytest.approx(0.0, abs=0.1)


# ---- EDM


def test_edm_input_and_loss_equal_diffusers_preconditioning(batch):
    z, n, output = batch
    z = z * 0.5
    objective, scheduler = EDMObjective(Lognormal()), EDMEulerScheduler(sigma_data=0.5)
    noisy = objective.noisy(z, n, SIGMAS)
    x = z + column(SIGMAS) * n
    torch.testing.assert_close(noisy.x, scheduler.precondition_inputs(x, column(SIGMAS)))
    torch.testing.assert_close(noisy.t, 0.25 * torch.log(SIGMAS))
    D = scheduler.precondition_outputs(x.double(), output.double(), column(SIGMAS).double())
    c_out = column(SIGMAS) * 0.5 / (column(SIGMAS) ** 2 + 0.25).sqrt()
    expected = per_row((D - z).square() / c_out**2).float()
    torch.testing.assert_close(loss(objective, output, z, n, SIGMAS), expected, rtol=1e-4, atol=1e-5)


def test_edm_weighting_none_is_diffusers_unweighted_loss(batch):
    z, n, output = batch
    scheduler = EDMEulerScheduler(sigma_data=0.5)
    objective = EDMObjective(Lognormal(), OnImage(0.25))
    x = (z + column(SIGMAS) * n).double()
    D = scheduler.precondition_outputs(x, output.double(), column(SIGMAS).double())
    expected = per_row((D - z).square()).float()
    torch.testing.assert_close(loss(objective, output, z, n, SIGMAS), expected, rtol=1e-4, atol=1e-6)


def test_edm_target_is_karras_effective_target_and_survives_small_sigma_in_fp32(batch):
    """|F - (z - c_skip x) / c_out|^2 (Karras et al. 2022, eq. 8). bf16 noise makes that target wrong by 0.15 at sigma
    0.002, which is why the reference scripts gave the weight up; here it is right to fp32's last digits."""
    z, n, _ = batch
    s = column(SIGMAS).double()
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    exact = (z.double() - c_skip * (z.double() + s * n.double())) / c_out
    torch.testing.assert_close(EDMObjective(Lognormal()).target(z, n, SIGMAS).double(), exact, rtol=1e-6, atol=1e-6)
    x = (z.bfloat16() + column(SIGMAS).bfloat16() * n.bfloat16()).double()
    coarse = (z.double() - c_skip * x) / c_out
    assert (coarse - exact)[0].square().mean() > 0.05


def test_edm_min_snr_follows_the_papers_form():
    """u = min(SNR, gamma) on the clean image; on F it is min(SNR, gamma) / (SNR + 1), as for v."""
    snr = 0.25 / SIGMAS**2
    weight = EDMObjective(Lognormal(), MinSNR(5.0)).weight(SIGMAS)
    torch.testing.assert_close(weight, snr.clamp(max=5.0) / (snr + 1))


def test_edm_samplers():
    draws = torch.Generator().manual_seed(0)
    sigma = Lognormal(-1.2, 1.2).draw(200_000, draws)
    assert sigma.log().mean().item() == pytest.approx(-1.2, abs=0.01)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.01)
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(999)
    torch.testing.assert_close(karras_grid(0.002, 80.0, count=999), scheduler.sigmas[:-1], rtol=1e-5, atol=0)
    grid = Uniform(karras_grid(0.002, 80.0)).draw(200_000, draws)
    assert (grid > 5).float().mean().item() == pytest.approx(0.42, abs=0.01)  # the notes' table
    assert (grid < 0.05).float().mean().item() == pytest.approx(0.164, abs=0.01)


# ---- a base with timesteps as a denoiser


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_continuous_objective_is_diffusers_edm_style_training(batch, prediction):
    """`--do_edm_style_training` on an SDXL base, line by line, with the script's weighting sigma^-2."""
    z, n, output = batch
    scheduler = EulerDiscreteScheduler(**BETAS, prediction_type=prediction)
    t = scheduler.timesteps[torch.tensor([0, 100, 500, 900, 999])]
    sigma = scheduler.sigmas[:-1][torch.tensor([0, 100, 500, 900, 999])]
    x = scheduler.add_noise(z, n, t)
    objective = made(prediction, objective="edm", sigma_sampler="uniform")
    assert isinstance(objective, ContinuousObjective)
    noisy = objective.noisy(z, n, sigma)
    torch.testing.assert_close(noisy.x, x / (column(sigma) ** 2 + 1).sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noisy.t, t.float(), atol=2e-3, rtol=1e-4)
    s = column(sigma)
    D = x - s * output if prediction == "epsilon" else -s / (s**2 + 1).sqrt() * output + x / (s**2 + 1)
    script = sigma**-2 * per_row((D - z).square())  # the script's weight, on both
    snr = sigma**-2
    ours = loss(objective, output, z, n, sigma) * (1 if prediction == "epsilon" else snr / (snr + 1))
    torch.testing.assert_close(ours, script, rtol=1e-3, atol=1e-4)


def test_continuous_objective_shows_levels_between_timesteps(batch):
    z, n, _ = batch
    objective = made(objective="edm", sigma_sampler="lognormal")
    between = (TIMESTEPS.sigmas[400] * TIMESTEPS.sigmas[401]).sqrt().repeat(5)
    torch.testing.assert_close(objective.noisy(z, n, between).t, torch.full((5,), 400.5), atol=1e-2, rtol=0)
    drawn = objective.draw(1000, torch.Generator().manual_seed(0))
    assert len(drawn.unique()) > 900
    assert drawn.min() >= TIMESTEPS.sigmas[0]
    assert drawn.max() <= TIMESTEPS.sigmas[-1]


# ---- choosing


def test_the_family_comes_from_the_scheduler_not_from_the_name(tmp_path):
    """A renamed copy of an EDM base is still trained as one; one called "playground" that is not, is not."""
    (tmp_path / "my-model").symlink_to(find_base("toy-playground").path)
    (tmp_path / "playground-v9").symlink_to(find_base("toy-sdxl").path)
    assert isinstance(build_objective(find_base(str(tmp_path / "my-model")), Recipe()), EDMObjective)
    assert isinstance(build_objective(find_base(str(tmp_path / "playground-v9")), Recipe()), EpsilonObjective)
    assert isinstance(made("v_prediction"), VPredictionObjective)


def normal_tail(z):
    return 0.5 * math.erfc(z / math.sqrt(2))


@pytest.mark.parametrize(("side", "P_mean", "above_5"), [(8, -1.2, 0.0096), (64, -0.4, 0.047), (128, -0.133, 0.073)])
def test_edm_levels_follow_the_size_of_the_latent(side, P_mean, above_5):
    """Of as many draws as a hundred jobs make; `docs/recipes.md` gives these shares."""
    base = find_base("toy-playground")
    objective = build_objective(base, Recipe(resolution=side * base.vae_factor))
    assert objective.distribution == Lognormal(P_mean, 1.2)
    drawn = objective.draw(50_000, torch.Generator().manual_seed(0))
    share = normal_tail((math.log(5) - P_mean) / 1.2)
    assert share == pytest.approx(above_5, rel=0.01)
    assert (drawn > 5).double().mean().item() == pytest.approx(share, rel=0.1)
    assert math.log(drawn.median()) == pytest.approx(P_mean, abs=0.02)
    assert f"| {side} | {P_mean} | {100 * above_5:.1f} % |" in (DOCS / "recipes.md").read_text()


def test_edm_levels_at_128_are_those_of_uniform_timesteps_on_sdxl():
    """By signal-to-noise ratio: SDXL's latents have unit variance, EDM's sigma_data is 0.5."""
    ln_sigma = (0.5 * TIMESTEPS.sigmas).log()
    assert mean_ln_sigma(128) == pytest.approx(ln_sigma.mean().item(), abs=0.1)
    assert pytest.approx(ln_sigma.std().item(), abs=0.02) == P_STD


def test_levels_that_a_recipe_names_are_taken_as_they_are():
    base = find_base("toy-playground")
    for side in (32, 64):
        named = {"name": "lognormal", "P_mean": -0.7, "P_std": 0.9}
        assert build_objective(base, Recipe(resolution=side, sigma_sampler=named)).distribution == Lognormal(-0.7, 0.9)
    spread, P_mean = {"name": "lognormal", "P_std": 0.9}, mean_ln_sigma(16)
    assert build_objective(base, Recipe(resolution=64, sigma_sampler=spread)).distribution == Lognormal(P_mean, 0.9)
    assert build_objective(base, Recipe(resolution=64, sigma_sampler="lognormal")).distribution.P_mean == P_mean
    assert made(objective="edm", sigma_sampler="lognormal", resolution=64).distribution == Lognormal(P_mean, 1.2)


def test_min_snr_reaches_edm_bases_too():
    """The reference checks for it before it knows that the base is EDM, and crashes on the first step."""
    for base in ("toy-playground", "toy-sdxl"):
        assert build_objective(find_base(base), Recipe(min_snr_gamma=3.0)).weighting == MinSNR(3.0)


def test_objectives_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().distribution = None
