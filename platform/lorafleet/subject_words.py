"""How a subject is named in prompts that are written for any: `{class}`, `{name}`, `TOK`. Pure: text in, text out."""

from __future__ import annotations

import re

ABSTRACTION = "TOK"


def filled(text: str, adapter: str, class_noun: str) -> str:
    """A prompt with `{class}` and `{name}` replaced by the subject's own."""
    return text.replace("{class}", class_noun).replace("{name}", adapter)


def without_subject(text: str, adapter: str, class_noun: str) -> str:
    """A prompt as one would ask the base for any of the class.

    "a photo of TOK dog" and "a photo of TOK" become "a photo of a dog", "my TOK on the beach" "my dog on the beach".
    """
    noun = re.escape(class_noun)
    subject = rf"(?:<{re.escape(adapter)}(?:/TOK[0-9]*)?>|\b{ABSTRACTION}[0-9]*\b)"
    article = "an" if class_noun[:1].lower() in "aeiou" else "a"
    text = re.sub(rf"{subject}\s+(?={noun}\b)", "", text)  # the noun stands there
    text = re.sub(rf"\b(a|an|the|my|your|his|her|our|their|this|that)\s+{subject}", rf"\1 {class_noun}", text)
    text = re.sub(subject, f"{article} {class_noun}", text)
    return re.sub(rf"\bof\s+(?={noun}\b)", f"of {article} ", re.sub(r"\s+", " ", text).strip())
