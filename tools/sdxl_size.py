"""The sizes of SDXL as `measure_base` would read them from its files, without files and torch; for tests and fits."""

from __future__ import annotations

from pathlib import Path

from lorafleet.bases import Base
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from lorafleet_jobs.intake.base_size import VAE, BaseSize

BLOCKS = {640: 10, 1280: 60}
"""Transformer blocks of the UNet by their width."""
CONTEXT = 2048


class SDXL(Base):
    """A base that is a name and a resolution; its folder holds nothing."""

    @property
    def resolution(self) -> int:
        """Pixels of a side."""
        return 1024


def sdxl_base() -> Base:
    """SDXL, for what asks a base no more than its name and its resolution."""
    return SDXL("sdxl", Path("/nowhere/sdxl"))


def sdxl_size() -> BaseSize:
    """SDXL's parts, and the layers of its transformer blocks; projections around them and embeddings are left out."""
    blocks = [(width, f"blocks{width}.{i}") for width, count in BLOCKS.items() for i in range(count)]
    unet = {f"{name}.{layer}": shape for width, name in blocks for layer, shape in _block(width).items()}
    return BaseSize(
        parts={UNET: 2_567_463_684, TEXT_ENCODER: 123_060_480, TEXT_ENCODER_2: 694_659_840, VAE: 83_653_863},
        layers={UNET: unet, TEXT_ENCODER: _encoder(768, 12), TEXT_ENCODER_2: _encoder(1280, 32)},
        token_widths=(768, 1280),
        text_layers=(12, 32),
    )


def _block(width: int) -> dict[str, tuple[int, int]]:
    layers = {"ff.net.0.proj": (width, 8 * width), "ff.net.2": (4 * width, width)}
    for attention, context in (("attn1", width), ("attn2", CONTEXT)):
        layers |= {f"{attention}.{name}": (width, width) for name in ("to_q", "to_out.0")}
        layers |= {f"{attention}.{name}": (context, width) for name in ("to_k", "to_v")}
    return layers


def _encoder(width: int, depth: int) -> dict[str, tuple[int, int]]:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return {f"encoder.layers.{i}.self_attn.{name}": (width, width) for i in range(depth) for name in names}
