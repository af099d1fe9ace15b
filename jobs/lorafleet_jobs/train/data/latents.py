"""Latents of pictures, by picture and view, never by step: the cache keeps the VAE's posterior, sampled at each use.

On disk they are shared by all jobs of a home. A file is named after everything that it depends on, so nothing in the
cache is ever out of date, and it holds a hash of its tensors: one that does not match is made again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cachetools import LRUCache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.data.cache_files import write_whole
from lorafleet_jobs.train.data.geometry import View, pixels
from lorafleet_jobs.train.data.pieces import Pieces, awaited
from lorafleet_jobs.train.data.sources import File

FIT_CODE = "2"
"""To be raised when `geometry` or the reading of a picture changes a view's pixels; part of every file's name."""
HASHES = "sha256"
"""The key, in a file's metadata, of its tensors' hash and that of the picture they were made of: one key, because
safetensors writes several in no fixed order."""
CACHED = 1024
"""Posteriors in memory, the least recently used dropped first; at 1024 pixels one takes 512 KiB."""
AHEAD = 2
"""Pictures that are opened before the VAE is free for them; at 1024 pixels one takes 12 MiB."""


@dataclass(frozen=True)
class Posterior:
    """N(mean, std^2) over a picture's VAE latents, each [1, c, h, w] fp32 on the CPU."""

    mean: Tensor
    std: Tensor

    def digest(self) -> str:
        """sha256 of shapes and values."""
        digest = hashlib.sha256(f"{tuple(self.mean.shape)}".encode())
        for tensor in (self.mean, self.std):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass
class Latents:
    """Posteriors of one base's VAE, computed at first use."""

    loaded: LoadedBase
    cache: Path | None
    """The home's folder of caches; None keeps posteriors in memory alone."""
    _memory: LRUCache[tuple[str, View], Posterior] = field(default_factory=lambda: LRUCache(CACHED))

    def posterior(self, file: File, view: View) -> Posterior:
        """The posterior of one view of a picture. Raises DataError if its file must be read and is not as planned."""
        key = (file.sha256, view)
        if key not in self._memory:
            self._keep(file, view, self._opened(file, view))
        posterior: Posterior = self._memory[key]
        return posterior

    def prepare(self, wanted: Iterable[tuple[File, View]], thread: Executor) -> Pieces[None]:
        """Works out the posteriors of these views, one a piece: the thread opens the pictures, at most AHEAD early.

        Raises what `posterior` raises.
        """
        left = deque({(file.sha256, view): (file, view) for file, view in wanted}.values())
        opened: deque[tuple[File, View, Future[Tensor | Posterior]]] = deque()
        while left or opened:
            while left and len(opened) < AHEAD:
                file, view = left.popleft()
                opened.append((file, view, thread.submit(self._opened, file, view)))
            file, view, future = opened.popleft()
            self._keep(file, view, (yield from awaited(future)))
            yield None

    def _opened(self, file: File, view: View) -> Tensor | Posterior:
        """A view's pixels, or its posterior if that is on disk; touches neither this memory nor the VAE."""
        path = self._path(file.sha256, view)
        kept = _read(path) if path is not None else None
        return pixels(file.picture(), view) if kept is None else kept

    def _keep(self, file: File, view: View, opened: Tensor | Posterior) -> None:
        if isinstance(opened, Posterior):
            posterior = opened
        else:
            posterior, path = self._encode(opened), self._path(file.sha256, view)
            if path is not None:
                tensors = {"mean": posterior.mean, "std": posterior.std}
                write_whole(path, save(tensors, {HASHES: f"{posterior.digest()} {file.sha256}"}))
        self._memory[file.sha256, view] = posterior

    @torch.no_grad()
    def _encode(self, shown: Tensor) -> Posterior:
        """Encodes one picture at a time, so that its latents do not depend on others."""
        encoded = self.loaded.vae.encode(shown.to(self.loaded.device)).latent_dist
        return Posterior(encoded.mean.float().cpu().contiguous(), encoded.std.float().cpu().contiguous())

    def _path(self, sha256: str, view: View) -> Path | None:
        if self.cache is None:
            return None
        contents = f"{FIT_CODE}/{sha256}/{view}/{self.loaded.base.vae_fingerprint}"
        name = hashlib.sha256(contents.encode()).hexdigest()
        return self.cache / "latents" / name[:2] / f"{name}.safetensors"


def cached_of(cache: Path, pictures: Collection[str]) -> Iterator[Path]:
    """The cache's files that were made of pictures with these sha256s, and those of which nobody can say that.

    The latter were written by an early release, or are damaged; whoever needs them makes them again.
    """
    for path in sorted((cache / "latents").glob("*/*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                picture = (file.metadata() or {}).get(HASHES, "").partition(" ")[2]
        except (OSError, SafetensorError):
            picture = ""
        if not picture or picture in pictures:
            yield path


def _read(path: Path) -> Posterior | None:
    """The posterior in a cache file; None if there is no such file, or it is damaged in any way."""
    try:
        with safe_open(path, "pt") as file:
            posterior = Posterior(file.get_tensor("mean"), file.get_tensor("std"))
            sound = (file.metadata() or {}).get(HASHES, "").partition(" ")[0] == posterior.digest()
    except (OSError, SafetensorError):
        return None
    return posterior if sound else None
