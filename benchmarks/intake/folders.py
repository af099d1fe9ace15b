"""How long `lorafleet check` takes for a thousand subjects of ten photographs, and where the time goes.

    python benchmarks/intake/folders.py [--folders 1000] [--photos 10] [--side 256] [--out FILE]

Pictures are made for it: gradients with noise, all different, saved as JPEG. Captions lie beside half of them. The aim
is a minute on two cores. Prints one JSON document, and writes it with --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lorafleet_jobs.cli.terminal.ticking import cores
from lorafleet_jobs.intake.prepare import examine

AIM_SECONDS = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_photos(Path(folder), options.folders, options.photos, options.side)
        load, before = os.getloadavg()[0], sum(os.times()[:4])
        started, first = time.monotonic(), []
        checked = examine(
            manifest, tick=lambda done, count: first.append(time.monotonic()) if not first else None, workers=cores()
        )
        seconds, cpu = time.monotonic() - started, sum(os.times()[:4]) - before
    assert len(checked.reports) == options.folders
    assert checked.ok
    found = {
        "folders": options.folders, "photos_each": options.photos, "side": options.side,
        "cores": cores(), "load_before": round(load, 1), "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "photos_per_second": round(options.folders * options.photos / seconds),
        "first_word_after_seconds": round(first[0] - started, 2), "aim_seconds": AIM_SECONDS,
    }  # fmt: skip
    text = json.dumps(found, indent=1) + "\n"
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0


def make_photos(root: Path, folders: int, photos: int, side: int) -> Path:
    """Writes folders of photographs and a manifest that names them by a glob."""
    random = np.random.default_rng(0)
    grain = random.integers(0, 24, (side, side, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, side)
    for folder in range(folders):
        home = root / "photos" / f"dog-{folder:04d}"
        home.mkdir(parents=True)
        for photo in range(photos):
            a, b, c = random.uniform(0, 180, (3, 3))
            light = a[None, None] + ramp[:, None, None] * (b - a) / 2 + ramp[None, :, None] * (c - a) / 2
            picture = np.clip(light + np.roll(grain, photo * 7, 0), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(home / f"{photo}.jpg", quality=90)
            if photo % 2:
                (home / f"{photo}.txt").write_text(f"a photo of TOK dog, number {photo}")
    manifest = root / "m.yaml"
    manifest.write_text('name: many\nbase: toy-sdxl\nsubjects: [{glob: "photos/{class}-*"}]\n')
    return manifest


if __name__ == "__main__":
    sys.exit(main())
