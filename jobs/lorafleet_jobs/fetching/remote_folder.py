"""Fetches a folder of photographs, or a zip file of them, from an address, by fsspec. Only where a manifest says so.

Which filesystems there are is a table; what each needs is imported when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from lorafleet.errors import DataError, first_line
from lorafleet.util.files import whole_folder
from lorafleet_jobs.fetching.bounds import refuse_many
from lorafleet_jobs.fetching.zip_file import unpack

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_IDENTITIES = ("ETag", "etag", "md5Hash", "blob_id", "checksum")
"""By which stores name a content; where they do not, all that they say of a file stands for it."""
_DEPTH = 2
"""Folders below the one that is named are fetched too, so that they can be told, but none below these."""


@dataclass(frozen=True)
class Store:
    """What a scheme of addresses needs, and how it fails."""

    package: str = ""
    errors: tuple[str, ...] = ()
    """`module:class` of what it raises beside OSError and ValueError."""


_HTTP = "aiohttp:ClientError"
STORES: Mapping[str, Store] = {
    "s3": Store("s3fs", ("botocore.exceptions:BotoCoreError", "botocore.exceptions:ClientError", _HTTP)),
    "gs": Store("gcsfs", ("gcsfs.retry:HttpError", "google.auth.exceptions:GoogleAuthError", _HTTP)),
    "hf": Store("huggingface_hub", ("huggingface_hub.errors:HfHubHTTPError", "httpx2:HTTPError", "httpx:HTTPError")),
    "file": Store(),
    "memory": Store(),
}


def scheme_of(written: str) -> str | None:
    """The scheme of an address; None for a path."""
    matched = _ADDRESS.match(written)
    return matched[1].lower() if matched is not None else None


def fetch(address: str, kept: Path) -> Path:
    """The folder under `kept` that holds what lies at an address, fetched if it is not there as it is now.

    Raises DataError.
    """
    scheme = scheme_of(address) or ""
    if scheme not in STORES:
        raise DataError(f"{address} cannot be fetched: {scheme}:// is none of {', '.join(f'{s}://' for s in STORES)}")
    store = STORES[scheme]
    if store.package and find_spec(store.package) is None:
        raise DataError(f"{address} needs {store.package}; run: pip install {store.package}")
    with _reached(address, store):
        import fsspec

        filesystem, root = fsspec.url_to_fs(address)
        if address.lower().endswith(".zip"):
            return _fetch_zip(filesystem, root, address, kept)
        return _fetch_folder(filesystem, root, address, kept)


def _fetch_folder(filesystem: Any, root: str, address: str, kept: Path) -> Path:
    filesystem.invalidate_cache()  # of listings, in a process that fetched before
    found = filesystem.find(root, maxdepth=_DEPTH, detail=True)
    files = {_below(path, root): info for path, info in found.items() if info.get("type", "file") == "file"}
    if not files:
        raise DataError(f"there is no file at {address}; write the address of the folder that holds the photographs")
    refuse_many(address, len(files), sum(int(info.get("size") or 0) for info in files.values()))
    folder = kept / _name(address, files)
    if folder.is_dir():
        return folder
    with whole_folder(folder) as scratch:
        for path, info in files.items():
            target = scratch / path
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(info["name"], str(target))
    return folder


def _fetch_zip(filesystem: Any, root: str, address: str, kept: Path) -> Path:
    refuse_many(address, 1, int(filesystem.info(root).get("size") or 0))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "photographs.zip"
        filesystem.get_file(root, str(file))
        return unpack(file, address, kept)


def _below(path: str, root: str) -> PurePosixPath:
    """A file's path inside the folder. Raises DataError for one that leads out of it, as no store's should."""
    inside = PurePosixPath("/" + path.lstrip("/")).relative_to("/" + root.strip("/"))
    if ".." in inside.parts or not inside.parts:
        raise DataError(f"{path!r} leads out of {root!r}; rename it")
    return inside


def _name(address: str, files: Mapping[PurePosixPath, Mapping[str, Any]]) -> str:
    """Of the folder that keeps these contents: another as soon as the store says that one changed."""
    said = []
    for path, info in sorted(files.items()):
        identity = {key: str(info[key]) for key in _IDENTITIES if info.get(key)} or {k: str(v) for k, v in info.items()}
        said.append([str(path), info.get("size"), identity])
    return "from-" + hashlib.sha256(json.dumps([address.rstrip("/"), said], sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def _reached(address: str, store: Store) -> Iterator[None]:
    """What a store raises, as a DataError."""
    raised: tuple[type[Exception], ...] = (OSError, ValueError, ImportError, *_classes(store))
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is nothing at {address}; correct the address") from None
    except raised as problem:
        raise DataError(f"{address} cannot be fetched: {first_line(problem, 300)}; check address and access") from None


def _classes(store: Store) -> tuple[type[Exception], ...]:
    """Those of the store's own exceptions whose packages are here."""
    pairs = [name.split(":") for name in store.errors]
    return tuple(getattr(import_module(module), name) for module, name in pairs if _is_here(module))


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that is not there
        return False
