"""Bounds and defaults, the command line's adapter form, and triggers: pure decisions."""

import json
import math
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.bases import Base, find_base
from lorafleet.bundle.adapter import Adapter
from lorafleet.bundle.bundle import Trigger
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.errors import RequestError
from lorafleet.numerics.samplers import sampler_names
from lorafleet_serve.adapters.spec import AdapterSpec, parse_adapter
from lorafleet_serve.engine.prompts import join_vectors, trigger_table
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest, recommended_sizes, side_bounds, with_defaults
from lorafleet_serve.engine.scheduler import RoundRobin

BASE = find_base("toy-playground")
UNET = SimpleNamespace(
    config=SimpleNamespace(addition_time_embed_dim=8),
    add_embedding=SimpleNamespace(linear_1=SimpleNamespace(in_features=6 * 8 + 64)),
)
SAMPLERS = ("edm-dpmpp-2m", "edm-euler")


def named(name, scale=1.0):
    return AdapterUse(AdapterVersion(name, 1, (), BASE.name, (), Path("/nowhere")), scale)


def test_defaults_are_the_base_s():
    settings = with_defaults(GenerateRequest("a", 7), BASE, SAMPLERS)
    assert (settings.steps, settings.guidance_scale) == (BASE.default_steps, BASE.default_guidance)
    assert (settings.width, settings.height) == (BASE.resolution, BASE.resolution)
    assert (settings.scheduler, settings.request.seed) == ("edm-dpmpp-2m", 7)
    assert (settings.request.guidance_rescale, settings.request.clip_skip) == (0, None)
    assert settings.time_ids() == (BASE.resolution, BASE.resolution, 0, 0, BASE.resolution, BASE.resolution)


@pytest.fixture
def playground(tmp_path):
    """A local copy of an EDM base, which is no toy by name; `playground(scheduler)` says which is its own."""

    def copy(scheduler="EDMDPMSolverMultistepScheduler"):
        folder = tmp_path / scheduler
        shutil.copytree(BASE.path, folder)
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": scheduler}))
        return Base("local", folder)

    return copy


@pytest.mark.parametrize(
    ("own", "asked", "guidance"),
    [
        ("EDMDPMSolverMultistepScheduler", None, 3.0),
        ("EDMDPMSolverMultistepScheduler", "edm-euler", 5.0),
        ("EDMEulerScheduler", None, 5.0),
        ("EDMEulerScheduler", "edm-dpmpp-2m", 3.0),
    ],
)
def test_guidance_is_what_the_sampler_asks_for(playground, own, asked, guidance):
    """Playground's model card: 3 with EDM-DPM++, 5 with EDM-Euler."""
    base = playground(own)
    names = sampler_names(base)
    assert with_defaults(GenerateRequest("a", 1, scheduler=asked), base, names).guidance_scale == guidance
    assert with_defaults(GenerateRequest("a", 1, scheduler=asked, guidance_scale=0.0), base, names).guidance_scale == 0
    assert base.default_guidance == base.guidance_with(names[0])


def test_micro_conditioning_is_in_sdxl_s_order_and_follows_the_picture():
    wide = with_defaults(GenerateRequest("a", 1, width=48, height=32), BASE, SAMPLERS)
    assert wide.time_ids() == (32, 48, 0, 0, 32, 48)
    request = GenerateRequest("a", 1, width=48, height=32, original_size=(640, 480), crop=(5, 7), target_size=(64, 40))
    ours = with_defaults(request, BASE, SAMPLERS).time_ids()
    theirs = StableDiffusionXLPipeline._get_add_time_ids
    add = partial(theirs, SimpleNamespace(unet=UNET), dtype=torch.float32, text_encoder_projection_dim=64)
    assert [list(ours)] == add(original_size=(480, 640), crops_coords_top_left=(5, 7), target_size=(40, 64)).tolist()


@pytest.mark.parametrize("name", ["toy-playground", "toy-sdxl"])
def test_recommended_sizes_are_allowed_and_start_with_the_base_s_own(name):
    base = find_base(name)
    sizes = recommended_sizes(base)
    assert sizes == ((32, 32), (64, 16), (40, 24), (24, 40), (16, 64))
    for width, height in sizes:
        with_defaults(GenerateRequest("a", 1, width=width, height=height), base, sampler_names(base))


def test_sdxl_s_usual_sizes_are_recommended(tmp_path):
    base = Base("big", tmp_path)
    base.__dict__["resolution"] = 1024
    found = recommended_sizes(base)
    assert found[0] == (1024, 1024)
    assert {(1152, 896), (1216, 832), (1344, 768), (896, 1152), (832, 1216), (768, 1344)} <= set(found)


def test_no_layer_skipped_is_the_base_s_own_way_and_unguided_needs_no_negative():
    assert GenerateRequest("a", 1, clip_skip=0).clip_skip is None
    assert GenerateRequest("a", 1, clip_skip=2).clip_skip == 2
    assert not with_defaults(GenerateRequest("a", 1, guidance_scale=1.0), BASE, SAMPLERS).guided
    assert with_defaults(GenerateRequest("a", 1), BASE, SAMPLERS).guided


@pytest.mark.parametrize(("changes", "says"), [
    ({"steps": 0}, "steps is 0; it must be at least 1"),
    ({"steps": 101}, "steps is 101"),
    ({"guidance_scale": -0.1}, "guidance_scale is -0.1; it must be at least 0"),
    ({"guidance_scale": 30.5}, "guidance_scale is 30.5"),
    ({"guidance_scale": math.nan}, "guidance_scale is nan; it must be a finite number"),
    ({"guidance_rescale": 1.1}, "guidance_rescale is 1.1; it must be at most 1"),
    ({"guidance_rescale": math.nan}, "guidance_rescale is nan"),
    ({"clip_skip": -1}, "clip_skip is -1; it must be at least 0"),
    ({"clip_skip": 3}, "clip_skip is 3; allowed are 0 to 2"),
    ({"original_size": (0, 8)}, "original_size.0 is 0; it must be at least 1"),
    ({"target_size": (8, 8193)}, "target_size.1 is 8193; it must be at most 8192"),
    ({"crop": (0, -1)}, "crop.1 is -1; it must be at least 0"),
    ({"prompt": "a (dog:9)"}, "a prompt weight is 9; allowed are 0 to 4"),
    ({"negative_prompt": "(dog:-1)"}, "a prompt weight is -1"),
    ({"guidance_scale": math.inf}, "guidance_scale is inf"),
    ({"width": 36}, "width is 36; allowed are multiples of 8"),
    ({"width": 0}, "width is 0; allowed are 8 to"),
    ({"height": 72}, "height is 72; allowed are 8 to 64"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**53}, "seed is 9007199254740992; it must be at most 9007199254740991"),
    ({"scheduler": "euler"}, "scheduler 'euler' does not fit base 'toy-playground'; allowed are edm-dpmpp-2m, edm-e"),
    ({"prompt": "x" * 2001}, "it must be text of 2000 characters at most"),
    ({"negative_prompt": "x" * 2001}, "negative_prompt is 'xxx"),
    ({"adapters": tuple(named(f"a{i}") for i in range(5))}, "5 adapters in one request; at most 4"),
    ({"adapters": (named("a"), named("a", 0.5))}, "adapter 'a' is named twice"),
    ({"adapters": (named("a", -4.5),)}, "adapters.0.scale is -4.5; it must be at least -4"),
    ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'?"),
    ({"adapters": (named("a", math.nan),)}, "adapters.0.scale is nan; it must be a finite number"),
])  # fmt: skip
def test_what_is_out_of_bounds_is_named_with_what_is_allowed(changes, says):
    with pytest.raises(RequestError) as caught:
        with_defaults(GenerateRequest(**{"prompt": "a", "seed": 1, **changes}), BASE, SAMPLERS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(steps=st.integers(1, 100), guidance=st.floats(0, 30), eighths=st.integers(1, 32))
def test_everything_within_bounds_passes(steps, guidance, eighths):
    least, greatest = side_bounds(BASE)
    side = min(max(eighths * 8, least), greatest)
    request = GenerateRequest("a", 1, steps=steps, guidance_scale=guidance, width=side, height=side)
    settings = with_defaults(request, BASE, SAMPLERS)
    assert (settings.steps, settings.guidance_scale, settings.width) == (steps, guidance, side)


@pytest.mark.parametrize(("text", "spec"), [
    ("dog-rex", AdapterSpec("dog-rex")),
    ("dog-rex@3", AdapterSpec("dog-rex", "3")),
    ("dog-rex@champion=0.8", AdapterSpec("dog-rex", "champion", 0.8)),
    ("dog-rex=-1", AdapterSpec("dog-rex", None, -1.0)),
    ("./bundles/dog-rex", AdapterSpec("dog-rex", folder=Path("bundles/dog-rex"))),
    ("/b/dog-rex=0.5", AdapterSpec("dog-rex", scale=0.5, folder=Path("/b/dog-rex"))),
    ("/odd=name/dog", AdapterSpec("dog", folder=Path("/odd=name/dog"))),
])  # fmt: skip
def test_adapter_form(text, spec):
    assert parse_adapter(text) == spec


@pytest.mark.parametrize("text", ["", "@3", "dog@", "dog=", "Dog", "dog=much", "a b", "dog@1@2", "dog=1=2", "./d=x"])
def test_what_is_no_adapter_form_is_refused_with_an_example(text):
    with pytest.raises(RequestError, match="dog-rex"):
        parse_adapter(text)


def host(name, count, *triggers):
    vectors = (torch.full((count, 2), float(count)), torch.full((count, 3), float(count))) if count else None
    return Adapter(name, {}, vectors, triggers, name if count else "")


def test_triggers_of_one_adapter_and_of_several():
    dog = host("dog", 2, Trigger(trigger="<dog>", abstraction="TOK", tokens=(0, 1)))
    cat = host("cat", 0, Trigger(trigger="<cat>", abstraction="TOK", text="grey cat"))
    mug = host("mug", 1, Trigger(trigger="<mug>", abstraction="TOK", tokens=(0,)))
    assert trigger_table([]) == {}
    assert trigger_table([dog]) == {"<dog>": (0, 1), "TOK": (0, 1)}
    assert trigger_table([cat]) == {"<cat>": "grey cat", "TOK": "grey cat"}
    assert trigger_table([dog, cat, mug]) == {"<dog>": (0, 1), "<cat>": "grey cat", "<mug>": (2,)}
    assert join_vectors([cat]) is None
    joined = join_vectors([dog, cat, mug])
    assert joined[0].tolist() == [[2, 2], [2, 2], [1, 1]]
    assert joined[1].shape == (3, 3)


@given(st.lists(st.sets(st.sampled_from([(4, 4), (8, 8), (8, 12), (16, 16)]), min_size=1), min_size=1, max_size=40))
def test_no_size_waits_longer_than_there_are_sizes(rounds):
    policy, waiting = RoundRobin(), {}
    for sizes in rounds:
        chosen = policy.next(sorted(sizes))
        assert chosen in sizes
        waiting = {size: waiting.get(size, 0) + 1 for size in sizes}
        waiting[chosen] = 0
        assert max(waiting.values()) <= 3


def test_one_trigger_for_the_tokens_of_two_adapters_is_refused():
    old = host("dog", 2, Trigger(trigger="<dog>", abstraction="TOK", tokens=(0, 1)))
    new = host("dog", 2, Trigger(trigger="<dog>", abstraction="TOK", tokens=(0, 1)))
    with pytest.raises(RequestError, match="'<dog>' stands for learned tokens of two adapters"):
        trigger_table([old, new])
