"""What a check can find: an id that never changes its meaning, a level, one line, and the file it is about.

D001  too few images            D010  no caption               D020  folder missing
D002  unreadable image          D011  TOK missing              D021  caption column missing
D003  image beyond the limits   D014  reserved text            D022  captions unreadable
D004  low resolution            D015  link out of the folder   D023  mask unusable
D005  same picture twice        D016  class missing            D024  mask all black
D006  nearly the same picture   D018  same picture in two      D025  masks missing or unused
D009  odd aspect                      subjects                 D026  class images unusable
                                D019  name taken or unusable   D027  profile or EXIF unreadable
D028  files left out            D030  captions not used
D029  long captions             D031  captions joined or guessed
D032  folder named for kohya    D033  transparency on white    D034  blurred
D035  screenshot                D036  one background           D037  one view
D038  unread zip or address     D039  photographs forgotten
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator

from lorafleet.config.strict import Strict
from lorafleet.console import one_line

Level = Literal["error", "warn", "info"]
Line = Annotated[str, BeforeValidator(one_line)]
SHOWN = 8
"""Names that one finding lists; it counts the others."""
_TRIGGER = re.compile(r"<([^<>/]+)(/TOK\d*)?>")


class Finding(Strict):
    """One thing found; an `error` keeps its subject from training."""

    id: str
    level: Level
    message: Line
    """What, which value, what to do: one line."""
    file: Line | None = None
    """Relative to the subject's folder."""


def reserved_text(text: str, adapters: Collection[str] = ()) -> str | None:
    """The first piece of a caption or prompt that has a meaning of its own: an adapter's trigger, a control character.

    `adapters` are those of the submission. Any other `<...>` is text, as in booru tags (`>_<`, `<o>_<o>`).
    """
    for match in _TRIGGER.finditer(text):
        if match[1] in adapters:
            return match[0]
    return next((c for c in text if unicodedata.category(c) == "Cc" and not c.isspace()), None)


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are.

    >>> some([f"{n}.jpg" for n in range(20)])
    '0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg and 12 more'
    """
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def finding(id: str, level: Level, message: str, file: str | None = None) -> Finding:  # noqa: A002
    """A finding of any level."""
    return Finding(id=id, level=level, message=message, file=file)


def error(id: str, message: str, file: str | None = None) -> Finding:  # noqa: A002
    """A finding that keeps its subject from training."""
    return finding(id, "error", message, file)
