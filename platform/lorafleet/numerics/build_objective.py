"""Makes a base's objective: the only module that knows scheduler configurations, recipes and objectives together.

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


def build_objective(base: Base, recipe: Recipe) -> Objective:
    """The objective of a base's family, as its own scheduler says, with the recipe's levels and weights."""
    side = latent_side(base, recipe)
    if base.prediction == "edm":
        config, sigma_data = base.scheduler, float(base.scheduler["sigma_data"])
        grid = karras_grid(config["sigma_min"], config["sigma_max"], config.get("rho", 7.0))
        distribution = _distribution(recipe, side, Lognormal(mean_ln_sigma(side), P_STD), Uniform(grid))
        return EDMObjective(distribution, _weighting(recipe, OnImage(sigma_data**2), OnOutput()), sigma_data)
    timesteps = Timesteps.of(base.scheduler)
    family = EpsilonObjective if base.prediction == "epsilon" else VPredictionObjective
    finite = timesteps.sigmas[timesteps.sigmas.isfinite()]
    grid = karras_grid(float(finite[0]), float(finite[-1]))
    distribution = _distribution(recipe, side, Uniform(timesteps.sigmas), Uniform(grid))
    if recipe.objective == "edm":
        inner = family(timesteps, distribution, _weighting(recipe, OnImage(), OnOutput()))
        return ContinuousObjective(inner, distribution)
    return family(timesteps, distribution, _weighting(recipe, OnOutput(), OnOutput()))


def _distribution(recipe: Recipe, side: float, default: NoiseDistribution, grid: Uniform) -> NoiseDistribution:
    """What the recipe's `sigma_sampler` names; `default` is the family's own, `grid` its Karras levels."""
    spec = recipe.sigma_sampler
    if spec is None:
        return default
    if spec.name == "lognormal":
        return Lognormal(mean_ln_sigma(side) if spec.P_mean is None else spec.P_mean, spec.P_std)
    return grid if spec.name == "uniform-grid" else default


def _weighting(recipe: Recipe, none: Weighting, default: Weighting) -> Weighting:
    """What the recipe's weighting names; `default` where it names none, `none` for its value "none"."""
    if recipe.scheme is None:
        return default
    if recipe.scheme == "min_snr":
        return MinSNR(recipe.min_snr_gamma or GAMMA)
    return {"none": none, "edm": OnOutput(), "debiased": Debiased()}[recipe.scheme]
