r"""The grammar of prompt weights, the part of A1111's that has one meaning. Pure: text in, text and weights out.

    (words:1.2)     the words with weight 1.2
    (words)         with weight 1.1
    ((words))       weights multiply: 1.21
    \( \) \\        the character itself

A parenthesis without its partner is plain text, as in ":-)"; so are brackets, and a colon that no number follows. Marks
are not spaces: "(sun:1)flower" is "sunflower".
"""

from __future__ import annotations

import re
from itertools import groupby

from lorafleet.errors import RequestError

PLAIN_PARENTHESES = 1.1
MAX_WEIGHT = 4.0
ENDING = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """Texts and their weights in order, neighbours of equal weight in one; RequestError if one is out of bounds."""
    marks, pairs = _marks_and_pairs(prompt)
    weights = [1.0] * len(prompt)
    for opening, closing in pairs:
        number = ENDING.search(prompt, opening + 1, closing)
        weight = float(number[1]) if number else PLAIN_PARENTHESES
        marks |= {opening, *range(number.start() if number else closing, closing + 1)}
        for place in range(opening, closing):
            weights[place] *= weight
    shown = [(weights[place], letter) for place, letter in enumerate(prompt) if place not in marks]
    for weight, _ in shown:
        if not 0 <= weight <= MAX_WEIGHT:
            raise RequestError(
                rf"a prompt weight is {weight:g}; allowed are 0 to {MAX_WEIGHT:g}; "
                r"write \( and \) for plain parentheses"
            )
    return [("".join(letter for _, letter in run), weight) for weight, run in groupby(shown, lambda pair: pair[0])]


def _marks_and_pairs(prompt: str) -> tuple[set[int], list[tuple[int, int]]]:
    """Places of escaping backslashes, and of parentheses that belong together."""
    marks: set[int] = set()
    pairs, waiting = [], []
    for match in re.finditer(r"\\[\\()]|[()]", prompt):
        if len(match[0]) == 2:
            marks.add(match.start())
        elif match[0] == "(":
            waiting.append(match.start())
        elif waiting:
            pairs.append((waiting.pop(), match.start()))
    return marks, pairs
