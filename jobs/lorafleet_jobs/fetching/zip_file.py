"""Unpacks a zip file of photographs. Trusts no name in it, and unpacks no more than it says and is allowed.

Folders that hold everything are left out, as is what systems add; a name that leads out of the folder is refused.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from lorafleet.bundle.bundle import sha256_of
from lorafleet.errors import DataError
from lorafleet.util.files import whole_folder
from lorafleet_jobs.dataset.listing import is_system
from lorafleet_jobs.fetching.bounds import refuse_many

_ENCRYPTED = 1
_DAMAGE = (
    BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
    ValueError,
)


def unpack(file: Path, written: str, kept: Path) -> Path:
    """The folder under `kept` that holds what is in a zip file, unpacked if it is not there yet.

    It is named after the file's content, wherever that lies. Raises DataError; `written` is what users call the file.
    """
    with _readable(written):
        folder = kept / f"zip-{sha256_of(file)[:32]}"
        if folder.is_dir():
            return folder
        with ZipFile(file) as archive:
            entries = _entries(archive, written)
            refuse_many(written, len(entries), sum(entry.info.file_size for entry in entries))
            with whole_folder(folder) as scratch:
                for entry in entries:
                    _write(archive, entry, scratch)
    return folder


@dataclass(frozen=True)
class _Entry:
    info: ZipInfo
    path: PurePosixPath


def _entries(archive: ZipFile, written: str) -> list[_Entry]:
    entries = [_Entry(info, _path(info, written)) for info in archive.infolist() if not info.is_dir()]
    entries = [entry for entry in entries if not any(is_system(part) for part in entry.path.parts)]
    while len({entry.path.parts[0] for entry in entries}) == 1 and all(len(entry.path.parts) > 1 for entry in entries):
        entries = [_Entry(entry.info, PurePosixPath(*entry.path.parts[1:])) for entry in entries]
    seen: set[str] = set()
    for entry in entries:
        if str(entry.path).casefold() in seen:
            raise DataError(f"{written} holds {str(entry.path)!r} twice; make it anew from a folder")
        seen.add(str(entry.path).casefold())
    return entries


def _path(info: ZipInfo, written: str) -> PurePosixPath:
    """Where an entry belongs, inside the folder. Raises DataError for one that does not."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise DataError(f"{written} holds {info.filename!r}, which leads out of its folder; make it anew from a folder")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{written} holds {info.filename!r}, which is a link; put the file itself in")
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{written} is protected by a password; save it without one")
    return path


def _write(archive: ZipFile, entry: _Entry, folder: Path) -> None:
    """Unpacks one entry: no more bytes than its header says, at which the module zipfile ends and compares its CRC."""
    target = folder / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry.info) as packed, target.open("xb") as stream:
        shutil.copyfileobj(packed, stream)


@contextmanager
def _readable(written: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except OSError as problem:
        raise DataError(f"{written} cannot be unpacked: {problem.strerror or problem}; check space and names") from None
    except _DAMAGE as problem:
        raise DataError(f"{written} is no zip file, or damaged ({problem}); make it anew") from None
