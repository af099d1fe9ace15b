"""Sampler tables against the diffusers schedulers they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import Base, find_base
from lorafleet.errors import BaseModelError, RequestError
from lorafleet.numerics.samplers import SamplerTable, sampler_names, sampler_table, scheduler_for

BASES = {name: find_base(name) for name in ("toy-sdxl", "toy-playground")}
CASES = [(base, sampler) for base in BASES.values() for sampler in sampler_names(base)]
IDS = [f"{base.name}-{sampler}" for base, sampler in CASES]


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for a UNet that depends on its input and on the timestep."""
    return torch.tanh(x.roll(1, dims=-1) * 1.3) + 0.2 * torch.sin(t.float() / 100)


def by_table(table: SamplerTable, noise: torch.Tensor) -> torch.Tensor:
    x, x0_prev = noise * table.init_noise_sigma, torch.zeros_like(noise)
    for i in range(len(table)):
        F = network(x * table.c_in[i].float(), table.t[i])
        x0 = table.c_skip[i].float() * x + table.c_out[i].float() * F
        x = table.A[i].float() * x + table.B[i].float() * x0 + table.C[i].float() * x0_prev
        x0_prev = x0
    return x


def by_diffusers(base: Base, sampler: str, steps: int, noise: torch.Tensor) -> torch.Tensor:
    scheduler = scheduler_for(sampler, base.scheduler)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


def altered(base: Base, **changes: object) -> Base:
    copy = Base(base.name, base.path)
    copy.__dict__["scheduler"] = {**base.scheduler, **changes}
    return copy


def assert_same(base: Base, sampler: str, steps: int, noise: torch.Tensor) -> None:
    table = sampler_table(base, sampler, steps)
    assert len(table) == steps
    torch.testing.assert_close(by_table(table, noise), by_diffusers(base, sampler, steps, noise), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 15, 25, 50, 100])
@pytest.mark.parametrize(("base", "sampler"), CASES, ids=IDS)
def test_a_table_gives_what_the_scheduler_gives(base, sampler, steps):
    assert_same(base, sampler, steps, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(steps)))


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(1, 100), seed=st.integers(0, 2**31), case=st.sampled_from(CASES))
def test_any_step_count_and_noise(steps, seed, case):
    assert_same(*case, steps, torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("changes", [
    {"use_karras_sigmas": True},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("sampler", ["euler", "dpmpp-2m"])
def test_other_schedules_of_discrete_bases(sampler, changes):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert_same(altered(BASES["toy-sdxl"], **changes), sampler, 12, noise)


def test_the_exponential_schedule_of_edm_bases():
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    base = altered(BASES["toy-playground"], sigma_schedule="exponential", sigma_data=0.7)
    for sampler in sampler_names(base):
        assert_same(base, sampler, 9, noise)


@pytest.mark.parametrize(("base", "changes"), [
    ("toy-playground", {"algorithm_type": "sde-dpmsolver++"}),
    ("toy-playground", {"solver_order": 3}),
    ("toy-playground", {"thresholding": True}),
    ("toy-playground", {"prediction_type": "v_prediction"}),
    ("toy-playground", {"solver_type": "heun"}),
    ("toy-sdxl", {"thresholding": True}),
], ids=str)  # fmt: skip
def test_a_configuration_no_table_stands_for_is_refused(base, changes):
    with pytest.raises(BaseModelError, match=next(iter(changes))):
        sampler_table(altered(BASES[base], **changes), None, 5)


def test_each_family_has_its_own_samplers_the_base_s_first():
    assert sampler_names(BASES["toy-sdxl"]) == ("euler", "dpmpp-2m")
    assert sampler_names(BASES["toy-playground"]) == ("edm-dpmpp-2m", "edm-euler")
    with pytest.raises(RequestError, match="edm-dpmpp-2m, edm-euler"):
        sampler_table(BASES["toy-playground"], "euler", 5)


def test_the_default_sampler_is_the_base_s_own():
    own, named = sampler_table(BASES["toy-sdxl"], None, 7), sampler_table(BASES["toy-sdxl"], "euler", 7)
    assert own is named
