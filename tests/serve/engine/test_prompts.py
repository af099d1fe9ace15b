"""What a prompt says: the grammar of weights, and triggers inside it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.errors import RequestError
from lorafleet.numerics.long_prompts import Weighted
from lorafleet_serve.engine.emphasis import parse_emphasis
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.prompts import read_prompt


@pytest.mark.parametrize(("prompt", "says"), [
    ("", []),
    ("a red dog", [("a red dog", 1)]),
    ("a (red:1.2) dog", [("a ", 1), ("red", 1.2), (" dog", 1)]),
    ("a (red) dog", [("a ", 1), ("red", 1.1), (" dog", 1)]),
    ("((red))", [("red", 1.1 * 1.1)]),
    ("(a (red:2) dog:0.5)", [("a ", 0.5), ("red", 1.0), (" dog", 0.5)]),
    ("(red: .5 )", [("red", 0.5)]),
    ("(red:0)", [("red", 0)]),
    ("(sun:1)flower", [("sunflower", 1)]),
    ("(a)(b)", [("ab", 1.1)]),
    ("(style: baroque)", [("style: baroque", 1.1)]),
    ("\\(red:1.2\\) dog", [("(red:1.2) dog", 1)]),
    ("(a \\) b:1.5)", [("a ) b", 1.5)]),
    ("back\\\\slash, and \\n", [("back\\slash, and \\n", 1)]),
    (":-) and :-(", [(":-) and :-(", 1)]),
    ("(a (b:1.5)", [("(a ", 1), ("b", 1.5)]),
    ("()(:3)", []),
    ("[red] {dog} <lora:x:1>", [("[red] {dog} <lora:x:1>", 1)]),
])  # fmt: skip
def test_the_grammar_of_weights(prompt, says):
    assert parse_emphasis(prompt) == says


@pytest.mark.parametrize(("prompt", "weight"), [
    ("(a:4.1)", "4.1"), ("(a:-1)", "-1"), ("(16:9)", "9"), ("(" * 15 + "a" + ")" * 15, "4.17"),
])  # fmt: skip
def test_a_weight_out_of_bounds_says_how_to_write_plain_parentheses(prompt, weight):
    with pytest.raises(RequestError, match=rf"weight is {weight}.*allowed are 0 to 4; write \\\( and \\\) for plain"):
        parse_emphasis(prompt)


@settings(max_examples=200)
@given(st.text(alphabet="ab (:.1)\\[é", max_size=30))
def test_every_text_has_a_meaning_or_a_reason_and_escaping_undoes_marks(text):
    escaped = "".join("\\" + letter if letter in "()\\" else letter for letter in text)
    assert parse_emphasis(escaped) == ([(text, 1)] if text else [])
    try:
        found = parse_emphasis(text)
    except RequestError:
        return
    assert all(part and 0 <= weight <= 4 for part, weight in found)
    assert all(one[1] != other[1] for one, other in pairwise(found))


def test_triggers_stand_inside_weights_and_what_they_stand_for_is_plain():
    triggers = {"<dog>": (0, 1), "TOK": (2,), "<cat>": "grey (cat)"}
    assert read_prompt("a (<dog>:1.3) on TOK", triggers) == (
        Weighted("a "), Weighted((0, 1), 1.3), Weighted(" on "), Weighted((2,)),
    )  # fmt: skip
    assert read_prompt("(fat <cat>)", triggers) == (Weighted("fat grey (cat)", 1.1),)
    assert read_prompt("<d(og>:1.2)", triggers) == (Weighted("<d"), Weighted("og>", 1.2))
    assert read_prompt("", triggers) == ()


@pytest.fixture(scope="module")
def model():
    return Pipeline.load(find_base("toy-sdxl"))


def test_a_prompt_is_encoded_once_for_all_that_mean_the_same(model):
    def encoded(prompt, clip_skip=None):
        return model.condition(read_prompt(prompt, {}), (), clip_skip)

    usual = encoded("a red dog")
    for same in ("a red dog", "a (red:1.0) dog", "((a red dog:2):0.5)"):
        assert encoded(same) is usual
    assert encoded("a red dog", 0) is usual
    for other in (
        encoded("a (red:1.2) dog"),
        encoded("a (red:0.8) dog"),
        encoded("a red dog", 1),
        encoded("a red (dog:1.2)"),
    ):
        assert other.context.shape == usual.context.shape
        assert not other.context.equal(usual.context)


def test_both_halves_of_guidance_have_one_length(model):
    long, short = read_prompt("a red mug " * 25, {}), read_prompt("a dog", {})
    for prompt, negative in ((long, short), (short, long), (long, ()), (long, None)):
        one, two = model.pair(prompt, negative)
        assert one.context.shape == two.context.shape == (1, 3 * model.loaded.prompts.length, 112)
    assert model.pair(short, short)[0].context.shape[1] == model.loaded.prompts.length
    usual, skipping = model.pair(short, short), model.pair(short, long, clip_skip=1)
    assert not skipping[0].context.equal(usual[0].context)
    assert skipping[1].context.equal(model.condition(long).context)  # as in diffusers, for the prompt alone
    assert not model.pair(long, None)[1].context.any()  # the base takes zeros for no negative prompt
