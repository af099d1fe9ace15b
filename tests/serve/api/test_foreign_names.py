"""Other people's names of our fields, and of samplers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.config.strict import parse
from lorafleet.errors import RequestError
from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.words.foreign_names import SAME
from lorafleet_serve.api.words.sampler_names import A1111_SAMPLERS, other_names, sampler_named

EPSILON = ("euler", "euler-ancestral", "dpmpp-2m", "dpmpp-2m-karras", "ddim", "lcm", "tcd")
EDM = ("edm-dpmpp-2m", "edm-euler")


def request(**body):
    return parse(ImagesRequest, {"prompt": "a dog", **body}, "body", RequestError)


@pytest.mark.parametrize(("theirs", "ours"), [
    ({"num_inference_steps": 12, "cfg_scale": 6.5, "negative": "blurry"},
     {"steps": 12, "guidance_scale": 6.5, "negative_prompt": "blurry"}),
    ({"sampler_name": "Euler a", "seed": -1}, {"scheduler": "Euler a"}),
    ({"sampler": "DDIM"}, {"scheduler": "DDIM"}),
    ({"width": 512, "height": 768, "num_images": 2}, {"size": "512x768", "n": 2}),
    ({"image_size": {"width": 512, "height": 768}, "num_outputs": 3}, {"size": "512x768", "n": 3}),
    ({"image_size": "512x512"}, {"size": "512x512"}),
    ({"loras": [{"path": "rex", "scale": 0.5}, "hat@2"]},
     {"adapters": [{"name": "rex", "scale": 0.5}, {"name": "hat", "version": "2"}]}),
    ({"loras": [{"name": "rex", "weight": 0.5, "version": 3}]},
     {"adapters": [{"name": "rex", "scale": 0.5, "version": 3}]}),
    ({"loras": ["rex"], "lora_scale": 0.7}, {"adapters": [{"name": "rex", "scale": 0.7}]}),
    ({"adapters": [{"name": "rex"}], "lora_scale": 0.7}, {"adapters": [{"name": "rex", "scale": 0.7}]}),
    ({"loras": [], "lora_scale": None, "steps": None, "n": None, "num_images": None}, {}),
    ({"steps": 5, "num_inference_steps": 5}, {"steps": 5}),
    ({"output_format": "jpg"}, {"output_format": "jpeg"}),
], ids=str)  # fmt: skip
def test_what_is_clear_is_understood(theirs, ours):
    assert request(**theirs) == request(**ours)


@pytest.mark.parametrize(("body", "says"), [
    ({"steps": 5, "num_inference_steps": 6}, "give steps alone"),
    ({"size": "8x8", "width": 16, "height": 16}, "give size alone"),
    ({"width": 512}, "width is given alone"),
    ({"num_inference_steps": 0}, "steps is 0; it must be at least 1"),
    ({"loras": {"rex": 1}}, "must be a list; write adapters: "),
    ({"loras": [{"scale": 1}]}, "loras.0 is not one adapter's name and scale"),
    ({"loras": [{"path": "rex", "name": "hat"}]}, "loras.0 is not one adapter's name and scale"),
    ({"loras": [{"path": "rex", "blocks": 3}]}, "loras.0 is not one adapter's name and scale"),
    ({"loras": [{"path": "https://hub/rex.safetensors"}]}, "are not fetched: `lorafleet adapters import`"),
    ({"loras": [{"path": "a/rex"}]}, "are not fetched"),
    ({"loras": [7]}, "loras.0 is 7; write adapters: "),
    ({"loras": ["rex"], "adapters": [{"name": "rex"}]}, "give adapters alone"),
    ({"loras": ["rex", "hat"], "lora_scale": 1}, "it is not clear of which adapter"),
    ({"lora_scale": 1}, "it is not clear of which adapter"),
    ({"loras": [{"name": "rex", "scale": 1}], "lora_scale": 0.5}, "it is not clear of which adapter"),
    ({"stepz": None}, "did you mean 'steps'?"),
], ids=str)  # fmt: skip
def test_what_is_not_is_answered_with_the_right_name(body, says):
    with pytest.raises(RequestError, match=r"^body: ") as told:
        request(**body)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["rex", "a/b", "8x8", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "path", "scale", "width", "height", "version"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from([*SAME, *SAME.values(), "loras", "lora_scale", "adapters", "width", "height", "seed"])


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_any_body_is_understood_or_refused_in_words(body):
    try:
        understood = request(**body)
    except RequestError:
        return
    assert request(**understood.model_dump()) == understood, "our own words mean themselves"


@pytest.mark.parametrize(("name", "epsilon", "edm"), [
    ("Euler a", "euler-ancestral", None),
    ("K_EULER_ANCESTRAL", "euler-ancestral", None),
    ("Euler", "euler", "edm-euler"),
    ("EulerDiscreteScheduler", "euler", "edm-euler"),
    ("DPM++ 2M", "dpmpp-2m", "edm-dpmpp-2m"),
    ("dpm++ 2m karras", "dpmpp-2m-karras", "edm-dpmpp-2m"),
    ("DPMSolverMultistep", "dpmpp-2m", "edm-dpmpp-2m"),
    ("EDM DPM++ 2M", "dpmpp-2m", "edm-dpmpp-2m"),
    ("DDIM", "ddim", None),
    ("LCMScheduler", "lcm", None),
    ("Heun", None, None),
])  # fmt: skip
def test_samplers_are_known_by_other_names(name, epsilon, edm):
    assert sampler_named(name, EPSILON) == (epsilon or name)
    assert sampler_named(name, EDM) == (edm or name)


def test_a_name_of_ours_means_just_that_sampler():
    assert sampler_named("euler", EDM) == "euler"
    for sampler in (*EPSILON, *EDM):
        own = next(each for each in (EPSILON, EDM) if sampler in each)
        assert sampler_named(sampler, own) == sampler
        assert sampler_named(A1111_SAMPLERS[sampler], own) == sampler
        assert {sampler_named(each, own) for each in other_names(sampler)} <= set(own)
