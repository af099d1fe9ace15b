"""Text of a file that a user wrote with any editor: UTF-8 and UTF-16 with and without marks, else Windows-1252."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from lorafleet_jobs.dataset.paths import leaves

MAX_BYTES = 4 * 2**20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
"""In this order: the mark of UTF-32 begins with that of UTF-16."""


@dataclass(frozen=True)
class Text:
    """What a file says."""

    content: str
    guessed: bool = False
    """Whether its bytes are no Unicode and were taken for Windows-1252, the usual other encoding of Latin script."""


class UnusableTextError(Exception):
    """A file that cannot be read as text; its message continues the file's name, `id` is the finding's."""

    def __init__(self, id: str, message: str) -> None:  # noqa: A002
        super().__init__(message)
        self.id = id


def read_text(folder: Path, name: str) -> Text:
    """The text of a file in a folder. Raises UnusableTextError."""
    path = folder / name
    if leaves(folder, path):
        raise UnusableTextError("D015", "is a link out of the folder; put a copy of the file there")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnusableTextError("D022", f"has {size} bytes; at most {MAX_BYTES} are read")
        if not path.is_file():
            raise UnusableTextError("D022", "is not a regular file; give a text file")
        return decode_text(path.read_bytes())
    except OSError as problem:
        raise UnusableTextError("D022", f"cannot be read: {problem.strerror}; check its permissions") from None


def decode_text(data: bytes) -> Text:
    """The text of a file's bytes. Raises UnusableTextError."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        return Text(data.decode(encoding))
    except UnicodeDecodeError as problem:
        start = problem.start
    if encoding == "utf-8" and b"\0" not in data:
        try:
            return Text(data.decode("cp1252"), guessed=True)
        except UnicodeDecodeError:
            pass
    name = encoding.upper().removesuffix("-SIG")
    raise UnusableTextError("D022", f"is not {name} (byte {start}); save it as UTF-8")


def _unmarked(data: bytes) -> str:
    """UTF-16 without a mark has a zero in every second byte of Latin script, which UTF-8 never has."""
    if b"\0" not in data:
        return "utf-8"
    even, odd = data[::2].count(0), data[1::2].count(0)
    return "utf-16-le" if odd > even else "utf-16-be"
