"""Live bytes of one training row on the full SDXL architecture, counted on the meta device: no card, no weights.

The peak of what a forward and a backward pass keep alive at once beside the frozen weights. Attention keeps what a
flash kernel keeps (q, k, v, output, log-sum-exp); workspaces of kernels are not seen. `fit_memory.py` fits the row of
attention LoRA to a card's measured cells; the other rows of the table are in `memory_model` as ratios to it.

    python benchmarks/memory/count_activations.py
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lorafleet.numerics.rowlora import RowDropout, RowLoRA
from lorafleet.targets import select
from lorafleet_jobs.train.trainable_state import LowRank, stacked
from sdxl_random import UNET, VAE

GIB, RANK = 2**30, 16


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made while it is on and not yet freed; `peak` is the most at once."""

    def __init__(self, weights: torch.nn.Module) -> None:
        """`weights` are there before; a view of one is nothing new."""
        super().__init__()
        self.weights = {each.untyped_storage()._cdata for each in weights.parameters()}
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self._see(each.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.live or key in self.weights:
            return
        self.live[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


class FlashAttention(torch.autograd.Function):
    """Keeps what a flash kernel keeps, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, output, torch.empty(q.shape[:3], device=q.device))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class MetaDropout(RowDropout):
    """Drawn without a generator of its own, which the meta device does not have."""

    def __call__(self, x: Tensor, layer: int) -> Tensor:
        rates = zip(x, self.rates, strict=True)
        return torch.stack([part * torch.empty_like(part).bernoulli_(1 - rate) / (1 - rate) for part, rate in rates])


def row_bytes(unet: Any, lora: RowLoRA, targets: str | Sequence[str], side: int, **what: Any) -> int:
    """Peak of one row's training step; `what`: dora, dropout, checkpointing."""
    names = select(lora.linear, targets)
    shapes = {name: lora.linear[name] for name in names}
    dora, dropout = what.get("dora", False), what.get("dropout", False)
    count = sum(RANK * sum(shape) + dora * shape[1] for shape in shapes.values())
    low = LowRank(torch.nn.Parameter(torch.randn(count, device="meta")), shapes, RANK, dora)
    unet.enable_gradient_checkpointing() if what.get("checkpointing") else unet.disable_gradient_checkpointing()
    x = torch.randn(1, 4, side // 8, side // 8, device="meta", dtype=torch.bfloat16)
    text = torch.randn(1, 77, 2048, device="meta", dtype=torch.bfloat16)
    extra = {
        "text_embeds": torch.randn(1, 1280, device="meta", dtype=x.dtype),
        "time_ids": torch.zeros(1, 6, device="meta"),
    }
    layers = stacked(lora, [low], [1.0])
    with LiveBytes(unet) as watch, lora.carrying(layers, MetaDropout([0.1], [0]) if dropout else None):
        output = unet(x, torch.zeros(1, device="meta"), text, added_cond_kwargs=extra, return_dict=False)[0]
        torch.autograd.grad(output.float().square().mean(), [low.flat])
    return watch.peak


def picture_bytes(side: int) -> tuple[int, int]:
    """Peaks of encoding and of decoding one picture in fp32."""
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE).requires_grad_(False).eval()
    with LiveBytes(vae) as encoding, torch.no_grad():
        vae.encode(torch.randn(1, 3, side, side, device="meta"))
    with LiveBytes(vae) as decoding, torch.no_grad():
        vae.decode(torch.randn(1, 4, side // 8, side // 8, device="meta"))
    return encoding.peak, decoding.peak


def main() -> None:
    """Prints the table."""
    F.scaled_dot_product_attention = lambda q, k, v, *_, **__: FlashAttention.apply(q, k, v)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET).to(torch.bfloat16).requires_grad_(False).eval()
    lora = RowLoRA(unet, lambda _: True)
    attention = row_bytes(unet, lora, "attn", 1024)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "attn": ("attn", {}), "attn, DoRA": ("attn", {"dora": True}), "attn, dropout": ("attn", {"dropout": True}),
        "attn+ff": ("attn+ff", {}), "attn+ff, DoRA": ("attn+ff", {"dora": True}),
        "attn+ff, dropout": ("attn+ff", {"dropout": True}),
        "all-linear": ("all-linear", {}), "all-linear, DoRA": ("all-linear", {"dora": True}),
    }  # fmt: skip
    print("row                  side  checkpointing   GiB  of attn")
    for checkpointing in (False, True):
        for side in (512, 1024):
            for name, (targets, what) in kinds.items():
                taken = row_bytes(unet, lora, targets, side, checkpointing=checkpointing, **what)
                kept = "on" if checkpointing else "off"
                print(f"{name:18s} {side:6d} {kept:>14s} {taken / GIB:5.2f} {taken / attention:8.2f}")
    for side in (512, 1024):
        encoding, decoding = picture_bytes(side)
        print(f"VAE in fp32, {side} px: encoding {encoding / GIB:.2f} GiB, decoding {decoding / GIB:.2f} GiB")


if __name__ == "__main__":
    main()
