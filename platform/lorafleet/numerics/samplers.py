"""Samplers as tables: per (base, sampler, steps) the numbers of one linear update, so that rows can differ in all.

    x0 = c_skip x + c_out F(c_in x, t)            the denoised latent from the network's output F
    x' = A x + B x0 + C x0_prev                   the step

Noise schedules come from the diffusers schedulers' own code; the coefficients are ours and are tested against them.
Euler: Karras et al. 2022, algorithm 1 without churn. DPM++ 2M: Lu et al. 2022 (2211.01095), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)
from torch import Tensor

from lorafleet.bases import Base
from lorafleet.errors import BaseModelError, RequestError

SCHEDULERS = {
    "edm-dpmpp-2m": EDMDPMSolverMultistepScheduler,
    "edm-euler": EDMEulerScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
BY_CLASS = {cls.__name__: name for name, cls in SCHEDULERS.items()}
COVERED: dict[str, tuple[Any, ...]] = {"prediction_type": ("epsilon", "v_prediction"), "thresholding": (False,)}
"""What the tables reproduce, by scheduler key; a base that asks for anything else is refused, never approximated."""
COVERED_2M: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint",),
    "solver_order": (2,),
    "final_sigmas_type": ("zero",),
}


@dataclass(frozen=True)
class Preconditioning:
    """x0 = c_skip x + c_out F(c_in x) on x = z + sigma n, each [n]."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


@dataclass(frozen=True)
class SamplerTable:
    """The coefficients of `n` steps, each [n] float64, and the scale of the first latent's noise."""

    t: Tensor  # what the UNet takes as timestep
    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    init_noise_sigma: float

    def __len__(self) -> int:
        return len(self.t)


def sampler_names(base: Base) -> tuple[str, ...]:
    """The samplers a base can be asked for, its own first."""
    fitting = [name for name in SCHEDULERS if name.startswith("edm-") == (base.prediction == "edm")]
    own = BY_CLASS.get(base.scheduler["_class_name"])
    return tuple(sorted(fitting, key=lambda name: name != own))


def sampler_table(base: Base, name: str | None, steps: int) -> SamplerTable:
    """The table of a named sampler, or of the base's own, for `steps` steps.

    RequestError if the sampler does not fit the base; BaseModelError if the base's configuration has no table.
    """
    allowed = sampler_names(base)
    name = name or allowed[0]
    if name not in allowed:
        raise RequestError(f"scheduler {name!r} does not fit base {base.name!r}; allowed are {', '.join(allowed)}")
    _check_covered(base, name)
    return _table(name, tuple(sorted((key, _hashable(value)) for key, value in base.scheduler.items())), steps)


def _check_covered(base: Base, name: str) -> None:
    covered = {**COVERED, **(COVERED_2M if name.endswith("2m") else {})}
    if base.prediction == "edm":
        covered["prediction_type"] = ("epsilon",)
    for key, allowed in covered.items():
        if (value := base.scheduler.get(key, allowed[0])) not in allowed:
            raise BaseModelError(
                f"base {base.name!r}: {key} {value!r} of its scheduler has no {name} table; allowed are "
                f"{', '.join(map(repr, allowed))}; change scheduler_config.json or ask for another scheduler"
            )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _table(name: str, config: tuple[tuple[str, Any], ...], steps: int) -> SamplerTable:
    scheduler = scheduler_for(name, dict(config))
    scheduler.set_timesteps(steps)
    sigma = scheduler.sigmas.double()  # [n + 1], the last is 0
    t = scheduler.timesteps
    s = sigma[:-1]
    if name.startswith("edm-"):
        network = _edm(s, float(scheduler.config.sigma_data))
    elif scheduler.config.prediction_type == "v_prediction":
        network = _edm(s, 1.0)
        network = replace(network, c_out=-network.c_out)
    else:
        network = Preconditioning((s**2 + 1).rsqrt(), torch.ones_like(s), -s)
    if name == "dpmpp-2m":
        return _variance_preserving(sigma, t, network, scheduler)
    return _sigma_space(sigma, t, network, scheduler, second_order=name.endswith("2m"))


def scheduler_for(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler that a sampler's table reproduces, built from a base's scheduler configuration."""
    cls = SCHEDULERS[name]
    return cls.from_config({key: value for key, value in config.items() if not key.startswith("_")})


def _second_order(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """DPM++ 2M's weights of x0 and x0_prev, in first-order weights; the first and last steps are first order."""
    h = (sigma[:-1] / sigma[1:]).log()  # lambda_{i+1} - lambda_i; infinite at the last step
    one_over_2r = torch.zeros_like(h)
    one_over_2r[1:-1] = 0.5 * h[1:-1] / h[:-2]
    return 1 + one_over_2r, -one_over_2r


def _edm(s: Tensor, sigma_data: float) -> Preconditioning:
    """EDM's table 1. With sigma_data 1 and c_out negated it is v prediction (Salimans & Ho 2022) on x = z + sigma n."""
    total = s**2 + sigma_data**2
    return Preconditioning(total.rsqrt(), sigma_data**2 / total, s * sigma_data * total.rsqrt())


def _sigma_space(sigma: Tensor, t: Tensor, net: Preconditioning, scheduler: Any, second_order: bool) -> SamplerTable:
    """The step on x = z + sigma n."""
    ratio = sigma[1:] / sigma[:-1]
    B, C = 1 - ratio, torch.zeros_like(ratio)
    if second_order:
        now, before = _second_order(sigma)
        B, C = (1 - ratio) * now, (1 - ratio) * before
    start = float(scheduler.init_noise_sigma)
    return SamplerTable(t.double(), net.c_in, net.c_skip, net.c_out, ratio, B, C, start)


def _variance_preserving(sigma: Tensor, t: Tensor, net: Preconditioning, scheduler: Any) -> SamplerTable:
    """The step on x = alpha z + alpha sigma n with alpha = (1 + sigma^2)^-1/2: DPM++ 2M on a discrete base."""
    alpha = (1 + sigma**2).rsqrt()
    noise = alpha * sigma
    first_order = alpha[1:] * (1 - sigma[1:] / sigma[:-1])
    now, before = _second_order(sigma)
    return SamplerTable(
        t=t.double(),
        c_in=net.c_in / alpha[:-1],
        c_skip=net.c_skip / alpha[:-1],
        c_out=net.c_out,
        A=noise[1:] / noise[:-1],
        B=first_order * now,
        C=first_order * before,
        init_noise_sigma=float(scheduler.init_noise_sigma),
    )
