r"""The grammar of prompt weights, the part of A1111's that has one meaning. Pure: text in, text and weights out.

    (words:1.2)     the words with weight 1.2
    (words)         with weight 1.1
    ((words))       weights multiply: 1.21
    \( \) \\        the character itself

A parenthesis without its partner is plain text, as in ":-)"; so are brackets, and a colon that no number follows. This
markup does not separate words: "(sun:1)flower" is "sunflower".
"""

from __future__ import annotations

import re
from itertools import groupby

from lorafleet.errors import RequestError

PLAIN_PARENTHESES = 1.1
MAX_WEIGHT = 4.0
ENDING = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """The prompt's texts and their weights in order, neighbours of equal weight joined.

    RequestError for a weight out of bounds.
    """
    markup, pairs = _escapes_and_pairs(prompt)
    weights = [1.0] * len(prompt)
    for opening, closing in pairs:
        number = ENDING.search(prompt, opening + 1, closing)
        weight = float(number[1]) if number else PLAIN_PARENTHESES
        markup |= {opening, *range(number.start() if number else closing, closing + 1)}
        for i in range(opening, closing):
            weights[i] *= weight
    weighted = [(weights[i], letter) for i, letter in enumerate(prompt) if i not in markup]
    for weight, _ in weighted:
        if not 0 <= weight <= MAX_WEIGHT:
            raise RequestError(
                rf"a prompt weight is {weight:g}; allowed are 0 to {MAX_WEIGHT:g}; "
                r"write \( and \) for plain parentheses"
            )
    return [("".join(letter for _, letter in run), weight) for weight, run in groupby(weighted, lambda pair: pair[0])]


def _escapes_and_pairs(prompt: str) -> tuple[set[int], list[tuple[int, int]]]:
    """Indices of escaping backslashes, and of each pair of parentheses."""
    escapes: set[int] = set()
    pairs, unclosed = [], []
    for match in re.finditer(r"\\[\\()]|[()]", prompt):
        if len(match[0]) == 2:
            escapes.add(match.start())
        elif match[0] == "(":
            unclosed.append(match.start())
        elif unclosed:
            pairs.append((unclosed.pop(), match.start()))
    return escapes, pairs
