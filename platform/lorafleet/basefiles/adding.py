"""Puts a base under the home, so that it is found by a name from anywhere: whole, with a record, or not at all.

Knows the home's folder of bases, its lock and the record. Refuses to know what a base is made of.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorafleet.base_record import RECORD, BaseRecord
from lorafleet.bases import HUB, SHIPPED, Base, added_bases
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config.manifest import Name
from lorafleet.config.strict import Strict
from lorafleet.errors import BaseModelError, NotFoundError
from lorafleet.home import Home
from lorafleet.util.files import size_of, whole_folder
from lorafleet.util.locked import locked

FREE = 2**28
"""Bytes that must be left on the disk."""


class Naming(Strict):
    """The name that a base is to be found by."""

    name: Name


@dataclass(frozen=True)
class Facts:
    """What is recorded of a base besides its name and its files' hashes."""

    origin: str
    prediction: str
    licence: str
    attribution: str = ""
    vae: str = ""
    tokenizers: str = ""


@dataclass(frozen=True)
class Added:
    """A base that was added, and what that took."""

    base: Base
    bytes: int
    seconds: float
    notes: tuple[str, ...]


def add_base(
    name: str, home: Home, size: int, write: Callable[[Path], Facts], notes: Callable[[], tuple[str, ...]] = tuple
) -> Added:
    """Makes a base of what `write` puts into an empty folder; `size` is about how many bytes that will be.

    While it runs other processes that add or remove bases of this home wait. Raises BaseModelError if the name is taken
    or the disk too small; after any exception, and after a kill and another call, nothing is left.
    """
    began = time.monotonic()
    target = home.bases / name
    if name in (*SHIPPED, *HUB):
        raise BaseModelError(f"{name!r} is the name of a base that is known everywhere; choose another --name")
    with locked(home.bases / ".lock"):
        if target.exists():
            raise BaseModelError(
                f"there is a base {name!r} in {home.bases}; choose another --name, or remove it: "
                f"lorafleet bases rm {name}"
            )
        _clear(home.bases)
        if (free := shutil.disk_usage(home.bases).free) < size + FREE:
            raise BaseModelError(
                f"{home.bases} has {free / 2**30:.1f} GiB left, and the base takes {size / 2**30:.1f}; make room, or "
                "set LORAFLEET_HOME to a larger disk"
            )
        with whole_folder(target) as folder:
            facts = write(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            hashes = {str(path.relative_to(folder)): sha256_of(path) for path in files}
            record = BaseRecord(name=name, sha256=hashes, **vars(facts))
            (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n", "utf-8")
    return Added(Base(name, target), size_of(target), time.monotonic() - began, notes())


def _clear(bases: Path) -> None:
    """Removes what processes left that were killed while they added a base; the lock says that none is at it."""
    for folder in bases.glob(".*"):
        if folder.is_dir():
            shutil.rmtree(folder)


def remove_base(name: str, home: Home) -> Added:
    """Removes an added base and returns what it was; what its files were linked from stays. Raises NotFoundError."""
    began = time.monotonic()
    base = next((one for one in added_bases(home) if one.name == name), None)
    if base is None:
        names = ", ".join(one.name for one in added_bases(home)) or "none"
        raise NotFoundError(f"no base {name!r} was added to {home.bases}; added are: {names}")
    with locked(home.bases / ".lock"):
        size = size_of(base.path)
        gone = home.bases / f".{name}.removed"
        _clear(home.bases)
        base.path.rename(gone)  # in one step, so that nobody finds half of it
        shutil.rmtree(gone)
    return Added(base, size, time.monotonic() - began, ())
