"""From a base's scheduler configuration and a recipe to an objective: the one place where the three meet.

What a recipe may not ask of a base is refused before anything starts (`lorafleet_jobs.intake.conflicts`).
"""

from __future__ import annotations

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.numerics.edm import P_STD, latent_side, mean_ln_sigma
from lorafleet.numerics.noise_levels import Lognormal, NoiseDistribution, Uniform, karras_grid
from lorafleet.numerics.objectives import (
    ContinuousObjective,
    EDMObjective,
    EpsilonObjective,
    Objective,
    Timesteps,
    VPredictionObjective,
)  # fmt: skip
from lorafleet.numerics.weighting import GAMMA, Debiased, MinSNR, OnImage, OnOutput, Weighting


def objective_for(base: Base, recipe: Recipe) -> Objective:
    """The objective of a base's family, as its own scheduler says, with the recipe's levels and weights."""
    side = latent_side(base, recipe)
    if base.prediction == "edm":
        config, sigma_data = base.scheduler, float(base.scheduler["sigma_data"])
        grid = karras_grid(config["sigma_min"], config["sigma_max"], config.get("rho", 7.0))
        sampler = _sampler(recipe, side, Lognormal(mean_ln_sigma(side), P_STD), Uniform(grid))
        return EDMObjective(sampler, _weighting(recipe, OnImage(sigma_data**2), OnOutput()), sigma_data)
    timesteps = Timesteps.of(base.scheduler)
    family = EpsilonObjective if base.prediction == "epsilon" else VPredictionObjective
    known = timesteps.sigmas[timesteps.sigmas.isfinite()]
    grid = karras_grid(float(known[0]), float(known[-1]))
    sampler = _sampler(recipe, side, Uniform(timesteps.sigmas), Uniform(grid))
    if recipe.objective == "edm":
        return ContinuousObjective(family(timesteps, sampler, _weighting(recipe, OnImage(), OnOutput())), sampler)
    return family(timesteps, sampler, _weighting(recipe, OnOutput(), OnOutput()))


def _sampler(recipe: Recipe, side: float, default: NoiseDistribution, grid: Uniform) -> NoiseDistribution:
    wanted = recipe.sigma_sampler
    if wanted is None:
        return default
    if wanted.name == "lognormal":
        return Lognormal(mean_ln_sigma(side) if wanted.P_mean is None else wanted.P_mean, wanted.P_std)
    return grid if wanted.name == "uniform-grid" else default


def _weighting(recipe: Recipe, none: Weighting, default: Weighting) -> Weighting:
    if recipe.scheme is None:
        return default
    if recipe.scheme == "min_snr":
        return MinSNR(recipe.min_snr_gamma or GAMMA)
    return {"none": none, "edm": OnOutput(), "debiased": Debiased()}[recipe.scheme]
