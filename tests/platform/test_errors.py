"""What is repeated of somebody else's exception: its first line, and its class."""

import pytest

from lorafleet.errors import first_line, summary


@pytest.mark.parametrize(
    ("problem", "line", "both"),
    [
        (ValueError("first\nsecond"), "first", "ValueError: first"),
        (RuntimeError("\n  indented\n"), "indented", "RuntimeError: indented"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (KeyError("name"), "'name'", "KeyError: 'name'"),
    ],
)
def test_first_line_and_class(problem, line, both):
    assert (first_line(problem), summary(problem)) == (line, both)


def test_a_line_is_cut():
    assert first_line(ValueError("abcdef"), 3) == "abc"
