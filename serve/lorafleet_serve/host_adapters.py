"""Adapters in host memory: bundles read, checked against the base and normalised, off the engine's thread.

Knows diffusers' LoRA key names and the bundle. Refuses to guess: a key that binds no layer, a wrong shape or rank, or a
value that is not finite is a BundleError that names the key.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.bundle import CARD, EMBEDDINGS, Bundle, Trigger, read_bundle
from lorafleet.errors import BundleError
from lorafleet.numerics.rowlora import Factors
from lorafleet.numerics.text import Vectors

PREFIX = "unet."
ENDINGS = {
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
}


@dataclass(frozen=True, eq=False)
class HostAdapter:
    """An adapter ready to be stacked."""

    name: str
    factors: dict[str, Factors]
    """Every layer of the base; alpha / rank folded into B, zeros where the adapter has none."""
    vectors: Vectors | None
    """Learned tokens [n, w1] and [n, w2]."""
    triggers: tuple[Trigger, ...]
    vectors_sha256: str
    """Identifies the learned tokens; empty without."""

    @property
    def nbytes(self) -> int:
        """Bytes held in host memory."""
        tensors = [tensor for layer in self.factors.values() for tensor in (layer.A, layer.B)]
        return sum(tensor.nbytes for tensor in (*tensors, *(self.vectors or ())))


def normalise(bundle: Bundle, shapes: Mapping[str, tuple[int, int]], widths: tuple[int, int]) -> HostAdapter:
    """Checks a bundle's tensors against the base's layers (in, out) and its token widths; all fp32."""
    card = bundle.card
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in bundle.weights().items():
        layer, side = _bind(card.name, key, shapes)
        if side in parts.setdefault(layer, {}):
            raise BundleError(
                f"adapter {card.name!r}: {key!r} gives layer {layer!r} its {side} a second time; train again"
            )
        parts[layer][side] = _checked(card.name, key, tensor, _shape(side, card.rank, shapes[layer]))
    if not parts:
        raise BundleError(
            f"adapter {card.name!r} binds none of the base's {len(shapes)} layers; train or fetch it again"
        )
    factors = {}
    for layer, (n_in, n_out) in shapes.items():
        pair = parts.get(layer)
        if pair is None:
            factors[layer] = Factors(torch.zeros(card.rank, n_in), torch.zeros(n_out, card.rank))
        elif len(pair) == 2:
            factors[layer] = Factors(pair["A"], pair["B"] * (card.alpha / card.rank))
        else:
            raise BundleError(f"adapter {card.name!r}: layer {layer!r} has only {next(iter(pair))} of its two factors")
    return HostAdapter(card.name, factors, _vectors(bundle, widths), card.triggers, card.sha256.get(EMBEDDINGS, ""))


def _bind(name: str, key: str, shapes: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    for ending, side in ENDINGS.items():
        layer = key.removeprefix(PREFIX).removesuffix(ending)
        if key.startswith(PREFIX) and key.endswith(ending) and layer in shapes:
            return layer, side
    raise BundleError(
        f"adapter {name!r}: {key!r} binds no layer of this base; only LoRA of its attention layers is served"
    )


def _shape(side: str, rank: int, layer: tuple[int, int]) -> tuple[int, int]:
    return (rank, layer[0]) if side == "A" else (layer[1], rank)


def _checked(name: str, key: str, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise BundleError(
            f"adapter {name!r}: {key!r} is {tensor.dtype} {list(tensor.shape)}; expected floats {list(shape)}"
        )
    if not torch.isfinite(tensor).all():
        raise BundleError(f"adapter {name!r}: {key!r} holds a value that is not finite; train it again")
    return tensor.float()


def _vectors(bundle: Bundle, widths: tuple[int, int]) -> Vectors | None:
    name, found = bundle.card.name, bundle.embeddings()
    rows = [row for trigger in bundle.card.triggers for row in trigger.tokens]
    if not found:
        if rows:
            raise BundleError(
                f"adapter {name!r}: its triggers name learned tokens, but it has none; train or fetch it again"
            )
        return None
    if set(found) != {"clip_l", "clip_g"}:
        raise BundleError(f"adapter {name!r}: embeddings {sorted(found)}; expected clip_l and clip_g")
    count = found["clip_l"].shape[0] if found["clip_l"].dim() else 0
    if rows and not 0 <= min(rows) <= max(rows) < count:
        raise BundleError(
            f"adapter {name!r}: its triggers name token rows {sorted(rows)}; it has rows 0 to {count - 1}"
        )
    one, two = (
        _checked(name, key, found[key], (count, w)) for key, w in zip(("clip_l", "clip_g"), widths, strict=True)
    )
    return one, two


class AdapterShelf:
    """Host adapters by bundle folder: loaded once however many requests wait, least recently used dropped by bytes.

    Thread-safe. Rows that run hold their adapter themselves, so dropping one from the shelf never touches them.
    """

    def __init__(
        self,
        fingerprint: str,
        shapes: Mapping[str, tuple[int, int]],
        widths: tuple[int, int],
        capacity: int = 4 * 2**30,
        loaders: int = 2,
    ) -> None:
        self._fingerprint, self._shapes, self._widths, self._capacity = fingerprint, shapes, widths, capacity
        self._lock = threading.RLock()  # a load that is already done settles inside fetch
        self._held: OrderedDict[tuple[str, int], Future[HostAdapter]] = OrderedDict()
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="adapter-loader")

    def fetch(self, path: Path) -> Future[HostAdapter]:
        """The adapter in a bundle folder, now or soon; the future holds BundleError if it cannot be used."""
        try:
            key = _identity(path)
        except BundleError as problem:
            failed: Future[HostAdapter] = Future()
            failed.set_exception(problem)
            return failed
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = self._pool.submit(self._load, path)
                held.add_done_callback(lambda done: self._settle(key, done))
            if key in self._held:
                self._held.move_to_end(key)
            return held

    def close(self) -> None:
        """Stops the loaders; nothing more can be fetched."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, path: Path) -> HostAdapter:
        return normalise(read_bundle(path, self._fingerprint), self._shapes, self._widths)

    def _settle(self, key: tuple[str, int], done: Future[HostAdapter]) -> None:
        with self._lock:
            if done.cancelled() or done.exception() is not None:
                self._held.pop(key, None)
                return
            total = 0
            for other in reversed(list(self._held)):  # newest first
                future = self._held[other]
                if future.done() and not future.cancelled() and future.exception() is None:
                    total += future.result().nbytes
                    if total > self._capacity and other != key:
                        del self._held[other]


def _identity(path: Path) -> tuple[str, int]:
    """The folder and when its card was written: a bundle that was replaced is another adapter."""
    try:
        return str(path.resolve()), (path / CARD).stat().st_mtime_ns
    except OSError as problem:
        raise BundleError(
            f"{path}: no readable {CARD} ({problem.strerror}); train or fetch the adapter again"
        ) from None
