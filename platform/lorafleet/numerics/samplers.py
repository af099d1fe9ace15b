"""Which samplers a base has, and their tables, which depend on the base, the sampler and the number of steps alone.

    discrete bases (epsilon, v):  euler, euler-ancestral, dpmpp-2m, dpmpp-2m-karras, ddim, lcm, tcd
    EDM bases:                    edm-dpmpp-2m, edm-euler; diffusers has no other scheduler for them

Timesteps and noise levels come from the diffusers schedulers' own code; the coefficients are `numerics.tables` and are
tested against the schedulers' steps. `lcm` and `tcd` are for their few-step adapters, loaded as any other, and take few
steps at low guidance. Refuses to know latents and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)
from torch import Tensor

from lorafleet.bases import Base
from lorafleet.errors import BaseModelError, RequestError
from lorafleet.numerics import tables
from lorafleet.numerics.tables import Level
from lorafleet.numerics.tables import SamplerTable as SamplerTable  # what callers of this module name

TCD_GAMMA = 0.3
"""How much of each TCD step is noise: Zheng et al. 2024's gamma, diffusers' `eta`, at the default of its scheduler."""
Allowed = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler and how its table is made once its timesteps are set for so many steps.

    `covered` has the values that the table reproduces, by configuration key, the scheduler's default first; a base with
    another value is refused, never approximated.
    """

    scheduler: type
    table: Callable[[Any, int], SamplerTable]
    covered: Allowed = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Configuration for keys that the base's own does not have."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Configuration that replaces the base's own."""
    distilled: bool = False
    """Whether steps are taken from the short schedule that few-step adapters were distilled on."""


def _schedule(scheduler: Any, steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps [n] and sigmas [n + 1].

    Cut to n: numpy gives a trailing schedule of 61 steps a 62nd, at timestep -1.
    """
    sigma = scheduler.sigmas.double()
    return scheduler.timesteps[:steps], torch.cat([sigma[:steps], sigma[-1:]])


def _euler(scheduler: Any, steps: int) -> SamplerTable:
    t, sigma = _schedule(scheduler, steps)
    network = tables.exploding(sigma[:-1], scheduler.config.prediction_type)
    level, update = Level.exploding(sigma[:-1]), tables.euler(sigma)
    return SamplerTable.of(t, level, network, update, float(scheduler.init_noise_sigma))


def _euler_ancestral(scheduler: Any, steps: int) -> SamplerTable:
    t, sigma = _schedule(scheduler, steps)
    network = tables.exploding(sigma[:-1], scheduler.config.prediction_type)
    level, update = Level.exploding(sigma[:-1]), tables.euler_ancestral(sigma)
    return SamplerTable.of(t, level, network, update, float(scheduler.init_noise_sigma))


def _dpmpp_2m(scheduler: Any, steps: int) -> SamplerTable:
    t, sigma = _schedule(scheduler, steps)
    alpha = (1 + sigma[:-1] ** 2).rsqrt()
    network = tables.preserving(alpha, scheduler.config.prediction_type)
    level, update = Level.preserving(alpha), tables.preserving_2m(sigma)
    return SamplerTable.of(t, level, network, update, float(scheduler.init_noise_sigma))


def _edm_euler(scheduler: Any, steps: int) -> SamplerTable:
    t, sigma = _schedule(scheduler, steps)
    network = tables.edm(sigma[:-1], float(scheduler.config.sigma_data))
    level, update = Level.exploding(sigma[:-1]), tables.euler(sigma)
    return SamplerTable.of(t, level, network, update, float(scheduler.init_noise_sigma))


def _edm_dpmpp_2m(scheduler: Any, steps: int) -> SamplerTable:
    t, sigma = _schedule(scheduler, steps)
    network = tables.edm(sigma[:-1], float(scheduler.config.sigma_data))
    level, update = Level.exploding(sigma[:-1]), tables.exploding_2m(sigma)
    return SamplerTable.of(t, level, network, update, float(scheduler.init_noise_sigma))


def _ddim(scheduler: Any, steps: int) -> SamplerTable:
    t = scheduler.timesteps[:steps]
    before = t - scheduler.config.num_train_timesteps // steps
    alpha = scheduler.alphas_cumprod.double().sqrt()
    end = torch.as_tensor(scheduler.final_alpha_cumprod).double().sqrt()
    alpha_next = torch.where(before >= 0, alpha[before.clamp(min=0)], end)
    network = tables.preserving(alpha[t], scheduler.config.prediction_type)
    return SamplerTable.of(t, Level.preserving(alpha[t]), network, tables.ddim(alpha[t], alpha_next), 1.0)


def _lcm(scheduler: Any, steps: int) -> SamplerTable:
    t = scheduler.timesteps
    alpha = scheduler.alphas_cumprod.double().sqrt()
    network = tables.preserving(alpha[t], scheduler.config.prediction_type)
    network = tables.consistency(network, t, float(scheduler.config.timestep_scaling))
    alpha_next = torch.cat([alpha[t[1:]], alpha.new_ones(1)])
    return SamplerTable.of(t, Level.preserving(alpha[t]), network, tables.multistep_consistency(alpha_next), 1.0)


def _tcd(scheduler: Any, steps: int) -> SamplerTable:
    t = scheduler.timesteps
    after = torch.cat([t[1:], t.new_zeros(1)])
    s = torch.floor((1 - TCD_GAMMA) * after).long()
    alpha = scheduler.alphas_cumprod.double().sqrt()
    network = tables.preserving(alpha[t], scheduler.config.prediction_type)
    update = tables.strategic(alpha[t], alpha[s], alpha[after])
    return SamplerTable.of(t, Level.preserving(alpha[t]), network, update, 1.0)


LATENT: Allowed = {"prediction_type": ("epsilon", "v_prediction"), "thresholding": (False,)}
UNCLIPPED: Allowed = {**LATENT, "clip_sample": (False,)}
EDM: Allowed = {"prediction_type": ("epsilon",), "thresholding": (False,)}
SECOND_ORDER: Allowed = {
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint",),
    "solver_order": (2,),
    "final_sigmas_type": ("zero",),
}
DPMPP_2M: Allowed = {**LATENT, **SECOND_ORDER, "use_flow_sigmas": (False,), "variance_type": (None,)}
KARRAS = {
    "use_karras_sigmas": True,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
}
UNCLIPPED_BY_DEFAULT = {"clip_sample": False}  # as SDXL's own configuration says; DDIM's default is for pixels

SAMPLERS: dict[str, Sampler] = {
    "edm-dpmpp-2m": Sampler(EDMDPMSolverMultistepScheduler, _edm_dpmpp_2m, {**EDM, **SECOND_ORDER}),
    "edm-euler": Sampler(EDMEulerScheduler, _edm_euler, EDM),
    "dpmpp-2m": Sampler(DPMSolverMultistepScheduler, _dpmpp_2m, DPMPP_2M),
    "dpmpp-2m-karras": Sampler(DPMSolverMultistepScheduler, _dpmpp_2m, DPMPP_2M, changes=KARRAS),
    "euler": Sampler(EulerDiscreteScheduler, _euler, LATENT),
    "euler-ancestral": Sampler(EulerAncestralDiscreteScheduler, _euler_ancestral, LATENT),
    "ddim": Sampler(DDIMScheduler, _ddim, UNCLIPPED, defaults=UNCLIPPED_BY_DEFAULT),
    "lcm": Sampler(LCMScheduler, _lcm, UNCLIPPED, distilled=True),
    "tcd": Sampler(TCDScheduler, _tcd, LATENT, distilled=True),
}


def sampler_names(base: Base) -> tuple[str, ...]:
    """The samplers a base can be asked for, its own first."""
    fitting = [name for name in SAMPLERS if name.startswith("edm-") == (base.prediction == "edm")]
    own = base.scheduler["_class_name"]
    return tuple(sorted(fitting, key=lambda name: SAMPLERS[name].scheduler.__name__ != own))


def sampler_table(base: Base, name: str | None, steps: int) -> SamplerTable:
    """The table of a named sampler, or of the base's own, for `steps` steps.

    RequestError if the sampler does not fit the base or so many steps; BaseModelError if the base's configuration has
    no table.
    """
    allowed = sampler_names(base)
    name = name or allowed[0]
    if name not in allowed:
        raise RequestError(f"scheduler {name!r} does not fit base {base.name!r}; allowed are {', '.join(allowed)}")
    _check_covered(base, name)
    return _table(name, tuple(sorted((key, _hashable(value)) for key, value in base.scheduler.items())), steps)


def _check_covered(base: Base, name: str) -> None:
    for key, allowed in SAMPLERS[name].covered.items():
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
    if SAMPLERS[name].distilled and steps > (most := scheduler.config.original_inference_steps):
        raise RequestError(f"steps is {steps}; allowed are 1 to {most} with scheduler {name!r}")
    scheduler.set_timesteps(steps)
    table = SAMPLERS[name].table(scheduler, steps)
    if not table.finite:
        raise RequestError(
            f"scheduler {name!r} has no finite first step where the terminal signal is zero and the prediction is "
            "epsilon; ask for euler, euler-ancestral or dpmpp-2m"
        )
    return table


def scheduler_for(name: str, config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler that a sampler's table reproduces, built from a base's scheduler configuration.

    Keys that this scheduler does not have are left out.
    """
    sampler: Any = SAMPLERS[name]
    accepted = signature(sampler.scheduler.__init__).parameters
    config_of_base = {key: value for key, value in config.items() if key in accepted}
    return sampler.scheduler.from_config({**sampler.defaults, **config_of_base, **sampler.changes})
