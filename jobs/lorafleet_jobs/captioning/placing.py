"""Where `TOK` goes in what a captioner said. Knows words; refuses to know models and files."""

from __future__ import annotations

import re

TOKEN = "TOK"


def placed(said: str, noun: str | None, prompt: str) -> str:
    """A caption that names the subject once.

    Where the class is said once, it is the subject; else the `prompt` comes first, the instance prompt. So it does if
    it has a word of its own in place of `TOK`.

    >>> placed("a dog on a sofa", "dog", "a photo of TOK dog")
    'a TOK dog on a sofa'
    >>> placed("two animals on a sofa", "dog", "a photo of TOK dog")
    'a photo of TOK dog, two animals on a sofa'
    """
    said = " ".join("".join(c if c.isprintable() else " " for c in said).split()).strip(" ,")
    if not said:
        return prompt
    if noun and re.search(rf"\b{TOKEN}\b", prompt):
        marked, count = re.subn(rf"\b{re.escape(noun)}\b", f"{TOKEN} {noun}", said, flags=re.IGNORECASE)
        if count == 1:
            return marked
    return f"{prompt}, {said}"
