"""What a check can find: an id that never changes its meaning, a level, one line, and the file it is about.

D001  too few images            D010  no caption               D018  same picture in two subjects
D002  unreadable image          D011  TOK missing              D019  name taken or unusable
D003  image beyond the limits   D014  reserved text            D020  folder missing
D004  low resolution            D015  link out of the folder   D021  caption column missing
D005  same picture twice        D016  class missing            D022  captions unreadable
D006  nearly the same picture   D009  odd aspect           D023  mask unusable
D024  mask all black            D025  masks missing/unused D026  class images unusable
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import BeforeValidator

from lorafleet.config.strict import Strict
from lorafleet.console import one_line

Level = Literal["error", "warn", "info"]
Line = Annotated[str, BeforeValidator(one_line)]
_RESERVED = re.compile(r"<[^<>]*>")


class Finding(Strict):
    """One thing found; an `error` keeps its subject from training."""

    id: str
    level: Level
    message: Line
    """What, which value, what to do: one line."""
    file: Line | None = None
    """Relative to the subject's folder."""


def reserved_text(text: str) -> str | None:
    """The first piece of a caption or prompt that has a meaning of its own: `<...>` or a control character."""
    if match := _RESERVED.search(text):
        return match[0]
    return next((c for c in text if unicodedata.category(c) == "Cc" and not c.isspace()), None)
