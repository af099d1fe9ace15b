"""How much is unpacked or fetched for one subject, at most. Refuses more instead of filling a disk."""

from __future__ import annotations

from lorafleet.errors import DataError

MAX_FILES = 5000
MAX_BYTES = 8 * 10**9
"""Of all files of a subject, unpacked: five thousand photographs of a telephone, or some hundred RAW files."""


def refuse_many(what: str, files: int, size: int) -> None:
    """Raises DataError for more files or bytes than a subject may have; `what` is the file or address."""
    if files > MAX_FILES:
        raise DataError(
            f"{what} holds {files} files; at most {MAX_FILES} are read, give the photographs of one subject"
        )
    if size > MAX_BYTES:
        message = f"{what} holds {size / 1e9:.1f} GB of files; at most {MAX_BYTES // 10**9} are read"
        raise DataError(f"{message}, give the photographs of one subject")
