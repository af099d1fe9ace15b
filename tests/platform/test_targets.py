"""Which layers a target names: whole parts of a layer's name, counted from its end."""

import pytest

from lorafleet.targets import is_target, select

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("layer", "targets", "expected"),
    [
        (ATTENTION, "attn", True),
        (ATTENTION.replace("to_q", "to_out.0"), "attn", True),
        (ATTENTION.replace("to_q", "add_to_q"), "attn", False),
        (ATTENTION.replace("attn1.to_q", "ff.net.2"), "attn", False),
        (ATTENTION.replace("attn1.to_q", "ff.net.2"), "attn+ff", True),
        (ATTENTION.replace("attn1.to_q", "buff.net.2"), "attn+ff", False),
        ("to_q", "attn", True),
        ("time_embedding.linear_1", "attn+ff", False),
        ("time_embedding.linear_1", "all-linear", True),
        ("time_embedding.linear_1", ("linear_1",), True),
        ("time_embedding.linear_1", ("time_embedding",), False),
        ("time_embedding.linear_1", ("near_1",), False),
    ],
)
def test_ends_of_names_are_whole_parts(layer, targets, expected):
    assert is_target(layer, targets) is expected


def test_what_is_selected_keeps_its_order():
    assert select(["b.to_q", "x", "a.to_q"], ["to_q"]) == ["b.to_q", "a.to_q"]
