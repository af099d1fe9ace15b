"""The picture of the serving bench in the README: images a second by number of adapters, one bar a way to serve.

Part of `serve.py`, which draws it anew whenever it writes its result; alone it draws the result that is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

PICTURE = Path(__file__).parent.parent / "docs" / "serve.svg"
ARMS = {
    "a": ("diffusers, load and unload", "#cbd5e1"), "b": ("diffusers, set_adapters", "#94a3b8"),
    "c": ("PEFT, mixed batches", "#64748b"), "d": ("step engine, one adapter a step", "#fcd9a8"),
    "e": ("step engine", "#ea7317"),
}  # fmt: skip
WIDTH = 0.16


def draw(data: Mapping[str, Any], path: Path = PICTURE) -> None:
    """Draws what `serve.py` measured on a toy base."""
    mpl.rcParams.update({"font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "lorafleet"})
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for i, (arm, (name, colour)) in enumerate(ARMS.items()):
        rates = [found["burst"][arm]["images_per_second"] for found in data["counts"].values()]
        bars = axes.bar([x + (i - 2) * WIDTH for x in range(len(rates))], rates, WIDTH, label=name, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, color="#334155", padding=1)
    axes.set_xticks(range(len(data["counts"])), [_adapters(int(n)) for n in data["counts"]])
    axes.set_ylabel("images per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.24))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _adapters(count: int) -> str:
    return f"{count} adapters" if count > 1 else "1 adapter"


if __name__ == "__main__":
    from serve import RESULT

    draw(json.loads(RESULT.read_text()))
