"""Sampler tables against the diffusers schedulers they stand for."""

from inspect import signature

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import Base, find_base
from lorafleet.errors import BaseModelError, RequestError
from lorafleet.numerics.samplers import SamplerTable, sampler_names, sampler_table, scheduler_for

BASES = {name: find_base(name) for name in ("toy-sdxl", "toy-playground")}
CASES = [(base, sampler) for base in BASES.values() for sampler in sampler_names(base)]
DISCRETE = sampler_names(BASES["toy-sdxl"])
RELATIVE, ROUNDING = 1e-5, 2**-21
IDS = [f"{base.name}-{sampler}" for base, sampler in CASES]


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for a UNet that depends on its input and on the timestep."""
    return torch.tanh(x.roll(1, dims=-1) * 1.3) + 0.2 * torch.sin(t.float() / 100)


SHAPE = (1, 4, 8, 8)


def by_table(table: SamplerTable, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator) * table.init_noise_sigma
    x0_prev = torch.zeros_like(x)
    for i in range(len(table)):
        F = network(x * table.c_in[i].float(), table.t[i])
        x0 = table.c_skip[i].float() * x + table.c_out[i].float() * F
        x = table.A[i].float() * x + table.B[i].float() * x0 + table.C[i].float() * x0_prev
        if table.stochastic:
            x = x + table.D[i].float() * torch.randn(SHAPE, generator=generator)
        x0_prev = x0
    return x


def by_diffusers(base: Base, sampler: str, steps: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scheduler = scheduler_for(sampler, base.scheduler)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a first timestep that comes twice is taken to be the second
    draws = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    x = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **draws).prev_sample
    return x


def from_picture(base: Base, sampler: str, steps: int, start: int, keep: torch.Tensor) -> None:
    """Both ways from a noised picture on, and where `keep` says so the picture stands at every step's level."""
    generator = torch.Generator().manual_seed(steps)
    z, n = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    again = generator.get_state()
    table = sampler_table(base, sampler, steps).begun_at(start)
    x, x0_prev = table.noised(z, n, 0), torch.zeros(SHAPE)
    for i in range(len(table)):
        x0 = table.c_skip[i].float() * x + table.c_out[i].float() * network(x * table.c_in[i].float(), table.t[i])
        x = table.A[i].float() * x + table.B[i].float() * x0 + table.C[i].float() * x0_prev
        if table.stochastic:
            x = x + table.D[i].float() * torch.randn(SHAPE, generator=generator)
        x, x0_prev = torch.where(keep, table.noised(z, n, i + 1), x), x0

    generator.set_state(again)
    scheduler = scheduler_for(sampler, base.scheduler)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    draws = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
    theirs = scheduler.add_noise(z, n, times[:1])
    for i, t in enumerate(times):
        F = network(scheduler.scale_model_input(theirs, t), t)
        theirs = scheduler.step(F, t, theirs, **draws).prev_sample
        kept = scheduler.add_noise(z, n, times[i + 1 : i + 2]) if i + 1 < len(times) else z
        theirs = torch.where(keep, kept, theirs)
    rounding = ROUNDING * float(table.sigma[0])
    assert (x - theirs).abs().max() <= 4 * RELATIVE * theirs.abs().max() + 4 * rounding


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 25), part=st.floats(0, 0.999), half=st.booleans(), case=st.sampled_from(CASES))
def test_a_table_begun_later_gives_what_the_scheduler_gives_from_there(steps, part, half, case):
    """A multistep sampler has no step before its first; levels of noise are the scheduler's own."""
    keep = (torch.arange(SHAPE[-1]) < 4 * half).expand(SHAPE)
    from_picture(*case, steps, int(part * steps), keep)


def altered(base: Base, **changes: object) -> Base:
    copy = Base(base.name, base.path)
    copy.__dict__["scheduler"] = {**base.scheduler, **changes}
    return copy


def assert_same(base: Base, sampler: str, steps: int, seed: int) -> None:
    table = sampler_table(base, sampler, steps)
    assert len(table) == steps
    ours, theirs = by_table(table, seed), by_diffusers(base, sampler, steps, seed)
    assert torch.isfinite(theirs).all()
    rounding = ROUNDING * float(table.init_noise_sigma)  # of the scheduler's own fp32 step from the first latent
    assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max() + rounding


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 15, 25, 50])
@pytest.mark.parametrize(("base", "sampler"), CASES, ids=IDS)
def test_a_table_gives_what_the_scheduler_gives(base, sampler, steps):
    assert_same(base, sampler, steps, seed=steps)


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 30), seed=st.integers(0, 2**31), case=st.sampled_from(CASES))
def test_any_step_count_and_noise(steps, seed, case):
    assert_same(*case, steps, seed)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SCHEDULES = [
    {"use_karras_sigmas": True},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"prediction_type": "v_prediction", **ZERO_SNR},
    {"prediction_type": "v_prediction", **ZERO_SNR, "set_alpha_to_one": False},
]


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 30), sampler=st.sampled_from(DISCRETE), changes=st.sampled_from(SCHEDULES))
def test_other_schedules_of_discrete_bases(steps, sampler, changes):
    assert_same(altered(BASES["toy-sdxl"], **changes), sampler, steps, seed=3)


@pytest.mark.parametrize("steps", [1, 7, 25])
@pytest.mark.parametrize("sampler", DISCRETE)
def test_zero_terminal_snr_starts_from_pure_noise_with_finite_numbers(sampler, steps):
    base = altered(BASES["toy-sdxl"], prediction_type="v_prediction", **ZERO_SNR)
    assert_same(base, sampler, steps, seed=5)


@pytest.mark.parametrize("sampler", ["ddim", "lcm", "tcd"])
def test_epsilon_at_zero_terminal_snr_is_refused_where_no_number_stands_for_it(sampler):
    with pytest.raises(RequestError, match="euler-ancestral or dpmpp-2m"):
        sampler_table(altered(BASES["toy-sdxl"], **ZERO_SNR), sampler, 4)


def test_a_trailing_schedule_never_has_a_step_more():
    """numpy.arange(1000, 0, -1000 / 61) has 62 values."""
    base = altered(BASES["toy-sdxl"], timestep_spacing="trailing")
    for sampler in DISCRETE[:-2]:
        table = sampler_table(base, sampler, 61)
        assert len(table) == 61
        assert table.t.min() >= 0


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_few_step_samplers_refuse_more_steps_than_they_were_distilled_on(sampler):
    assert len(sampler_table(BASES["toy-sdxl"], sampler, 50)) == 50
    with pytest.raises(RequestError, match=f"steps is 51; allowed are 1 to 50 with scheduler '{sampler}'"):
        sampler_table(BASES["toy-sdxl"], sampler, 51)


def test_which_samplers_draw_noise():
    drawing = {name for name in DISCRETE if sampler_table(BASES["toy-sdxl"], name, 4).stochastic}
    assert drawing == {"euler-ancestral", "lcm", "tcd"}
    for name in DISCRETE:
        assert sampler_table(BASES["toy-sdxl"], name, 4).D[-1] == 0
        assert not sampler_table(BASES["toy-sdxl"], name, 1).stochastic


def test_the_exponential_schedule_of_edm_bases():
    base = altered(BASES["toy-playground"], sigma_schedule="exponential", sigma_data=0.7)
    for sampler in sampler_names(base):
        assert_same(base, sampler, 9, seed=3)


@pytest.mark.parametrize(("base", "changes"), [
    ("toy-playground", {"algorithm_type": "sde-dpmsolver++"}),
    ("toy-playground", {"solver_order": 3}),
    ("toy-playground", {"thresholding": True}),
    ("toy-playground", {"prediction_type": "v_prediction"}),
    ("toy-playground", {"solver_type": "heun"}),
    ("toy-sdxl", {"thresholding": True}),
    ("toy-sdxl", {"_class_name": "DDIMScheduler", "clip_sample": True}),
    ("toy-sdxl", {"_class_name": "LCMScheduler", "clip_sample": True}),
], ids=str)  # fmt: skip
def test_a_configuration_no_table_stands_for_is_refused(base, changes):
    with pytest.raises(BaseModelError, match=list(changes)[-1]):
        sampler_table(altered(BASES[base], **changes), None, 5)


def test_each_family_has_its_own_samplers_the_base_s_first():
    discrete = ("euler", "dpmpp-2m", "dpmpp-2m-karras", "euler-ancestral", "ddim", "lcm", "tcd")
    assert sampler_names(BASES["toy-sdxl"]) == discrete
    assert sampler_names(BASES["toy-playground"]) == ("edm-dpmpp-2m", "edm-euler")
    with pytest.raises(RequestError, match="edm-dpmpp-2m, edm-euler"):
        sampler_table(BASES["toy-playground"], "euler", 5)


def test_the_default_sampler_is_the_base_s_own():
    own, named = sampler_table(BASES["toy-sdxl"], None, 7), sampler_table(BASES["toy-sdxl"], "euler", 7)
    assert own is named
