"""Which safetensors files of a base's part are loaded, what their headers say, and a fixed sample of their values.

Knows diffusers' and transformers' file names and safetensors' layout. Refuses to read whole files, and imports no
torch, because `plan` and `check` use it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lorafleet.errors import BaseModelError

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
"""The name that each library gives to a part's file, without its ending."""
_HEADER_LIMIT = 100 * 10**6  # safetensors' own
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_WIDTHS = {dtype: np.dtype(kind).itemsize for dtype, kind in _FLOATS.items()}
_RUNS, _RUN = 3, 64


@dataclass(frozen=True)
class PartFiles:
    """The files that a part of a base is loaded from."""

    variant: str | None
    """The word in the files' names that diffusers and transformers call so; None for files without one."""
    paths: tuple[Path, ...]
    others: tuple[str, ...] = ()
    """Variants beside them that are not loaded; "" for files without one."""


@dataclass(frozen=True)
class Stored:
    """A tensor's dtype and shape, and its position in a file."""

    path: Path
    dtype: str
    """As safetensors spells it."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    stop: int


def part_files(folder: Path, stem: str) -> PartFiles:
    """What is loaded of a part: the files without a variant if they are there, else the one variant that is.

    `stem` is what the file is called before `.safetensors`. Shards count as there if all of them are: an index alone
    comes along when somebody fetches another variant. Raises BaseModelError with what to do if there is nothing to
    load, or there are several variants and nothing says which is meant.
    """
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    kinds = sorted({kind for name in names if (kind := _variant(name, stem)) is not None})
    paths = {kind: _paths(folder, stem, kind) for kind in kinds}
    missing = [path for kind in kinds for path in paths[kind] if not path.is_file()]
    whole = [kind for kind in kinds if all(path.is_file() for path in paths[kind])]
    if not whole and missing:
        raise BaseModelError(f"{missing[0]} is named by an index and not there; fetch the base again")
    if not whole:
        raise BaseModelError(
            f"{folder} holds no {stem}.safetensors; give a folder that diffusers saved so, or fetch the base again"
        )
    if whole[0] and len(whole) > 1:
        raise BaseModelError(
            f"{folder} holds the variants {', '.join(whole)} and no {stem}.safetensors; leave one of them there"
        )
    return PartFiles(whole[0] or None, paths[whole[0]], tuple(kind for kind in kinds if kind != whole[0]))


def choice_of(parts: Mapping[str, PartFiles]) -> str:
    """Which of several variants each part is loaded from, in words; "" where no part has any."""
    if not any(files.variant or files.others for files in parts.values()):
        return ""
    chosen: dict[str, list[str]] = {}
    for part, files in parts.items():
        chosen.setdefault(f"{files.variant} files" if files.variant else "files without a variant", []).append(part)
    said = [kind + (f" ({', '.join(of)})" if len(chosen) > 1 else "") for kind, of in chosen.items()]
    others = sorted({f"{kind} files" for files in parts.values() for kind in files.others if kind})
    return " and ".join(said) + (f"; not from the {', '.join(others)} beside them" if others else "")


def _variant(name: str, stem: str) -> str | None:
    """The variant that a file is, or is the index of, "" for none; None for a shard or something else."""
    word = r"\.(?P<variant>(?!.*-of-)[\w-]+)"
    patterns = [rf"{stem}({word})?\.safetensors", rf"{stem}\.safetensors\.index({word})?\.json"]
    if stem == DIFFUSERS:
        patterns.append(rf"{stem}\.safetensors{word}\.index\.json")  # as it wrote them until 2024
    for pattern in patterns:
        if match := re.fullmatch(pattern, name):
            return match["variant"] or ""
    return None


def _paths(folder: Path, stem: str, variant: str) -> tuple[Path, ...]:
    """One file, or the shards of an index. Where both lie there diffusers takes the shards, transformers the file."""
    dot = f".{variant}" if variant else ""
    single = folder / f"{stem}{dot}.safetensors"
    indices = [folder / f"{stem}.safetensors.index{dot}.json", folder / f"{stem}.safetensors{dot}.index.json"]
    index = next((path for path in indices if path.is_file()), None)
    if index is None or (single.is_file() and stem == TRANSFORMERS):
        return (single,)
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return tuple(folder / shard for shard in shards)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise BaseModelError(f"cannot read {index} ({problem!r}); fetch the base again") from None


def tensors_of(files: PartFiles) -> dict[str, Stored]:
    """Every tensor of a part by its name, from the files' headers. Raises BaseModelError."""
    return {name: stored for path in files.paths for name, stored in _header(path)}


def metadata_of(path: Path) -> dict[str, str]:
    """The words that a safetensors file says about itself; empty if it says none. Raises BaseModelError."""
    try:
        told = _json(path)[0].get("__metadata__", {})
        return {str(key): str(value) for key, value in told.items()}
    except (OSError, ValueError, TypeError, AttributeError, struct.error) as problem:
        raise _unreadable(path, problem) from None


def _header(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        header, length = _json(path)
        size = path.stat().st_size
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = (8 + length + int(offset) for offset in entry["data_offsets"])
                if stop > size:
                    raise ValueError(f"{size} bytes are too few for {name}")
                if entry["dtype"] in _FLOATS and stop - start != prod(entry["shape"]) * _WIDTHS[entry["dtype"]]:
                    raise ValueError(f"{stop - start} bytes do not fit the shape of {name}")
                yield name, Stored(path, entry["dtype"], tuple(entry["shape"]), start, stop)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as problem:
        raise _unreadable(path, problem) from None


def _json(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header and its length in bytes."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        return json.loads(stream.read(min(length, _HEADER_LIMIT))), length


def _unreadable(path: Path, problem: Exception) -> BaseModelError:
    return BaseModelError(f"cannot read {path} ({problem}); fetch the base again")


def values_digest(tensors: Mapping[str, Stored], as_fp16: bool) -> bytes:
    """sha256 over names, shapes and of each tensor 192 values: its first, middle and last 64, all of a smaller one.

    With `as_fp16` floats are rounded to fp16 first, as whoever saves an fp16 copy rounds them, so that fp64, fp32 and
    fp16 copies have one digest; without, the dtype counts too. Index buffers (`position_ids`), which some versions of
    transformers save and others do not, are left out, and so is `text_model.` in front of a name.
    """
    digest = hashlib.sha256()
    plain = {name.removeprefix("text_model."): stored for name, stored in tensors.items()}
    with _Open() as files:
        for name, stored in sorted(plain.items()):
            if name.endswith("position_ids"):
                continue
            dtype = "" if as_fp16 and stored.dtype in _FLOATS else stored.dtype
            digest.update(f"{name}:{dtype}{list(stored.shape)}\n".encode())
            raw = b"".join(files.read(stored.path, at, size) for at, size in _sampled(stored))
            digest.update(_as_fp16(raw, stored.dtype) if as_fp16 else raw)
    return digest.digest()


def _sampled(stored: Stored) -> list[tuple[int, int]]:
    """The sampled runs of a tensor: each run's first byte in the file, and how many bytes it has."""
    count = prod(stored.shape)
    if not count:
        return []
    width = (stored.stop - stored.start) // count
    if width == 0 or count <= _RUNS * _RUN:  # packed types have several values a byte
        return [(stored.start, min(stored.stop - stored.start, _RUNS * _RUN * 8))]
    starts = (0, (count - _RUN) // 2, count - _RUN)
    return [(stored.start + start * width, _RUN * width) for start in starts]


def _as_fp16(raw: bytes, dtype: str) -> bytes:
    """Floats rounded to the nearest fp16, ties to even, as torch rounds; other values as they are."""
    if dtype not in _FLOATS:
        return raw
    values = np.frombuffer(raw, _FLOATS[dtype])
    if dtype == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):  # infinite in an fp16 copy too
        return values.astype("<f2").tobytes()


class _Open:
    """Reads pieces of files, opening each file once."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.close(file)

    def read(self, path: Path, at: int, size: int) -> bytes:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)
        return os.pread(self._files[path], size, at)


def headers_digest(files: Mapping[str, Sequence[Path]]) -> str:
    """The fingerprint of earlier adapters' cards: of each file its name, its size, and its first and last 64 KiB."""
    digest = hashlib.sha256()
    for part, paths in files.items():
        for path in sorted(paths):
            size = path.stat().st_size
            digest.update(f"{part}/{path.name}:{size}\n".encode())
            with path.open("rb") as stream:
                digest.update(stream.read(65536))
                stream.seek(max(0, size - 65536))
                digest.update(stream.read(65536))
    return digest.hexdigest()[:16]
