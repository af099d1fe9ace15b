"""Measures the toy world on renders and prompts it was never trained on and writes `docs/toy.md`."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image

from lorafleet.bases import SHIPPED, Base, find_base
from lorafleet.loaded import LoadedBase
from lorafleet.pictures import sample_pictures
from lorafleet.toy.judges import ATTRIBUTES, WEIGHTS, as_tensor, load_judge, recognise
from lorafleet.toy.render import SIDE, render
from lorafleet.toy.sheet import contact_sheet
from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import CLASSES, held_out_prompts, random_scene
from lorafleet.util.machine import describe_machine
from toy.data import pictures
from toy.judge import accuracy, shares_right
from toy.stages import to_image
from toy.vae import psnr, reconstructed

SEEDS = 5
PAGE = Path(__file__).parents[2] / "docs" / "toy.md"


def sample_prompts(loaded: LoadedBase, prompts: list[str], seed: int) -> torch.Tensor:
    """One picture a prompt at the base's default steps and guidance, as [n, 3, h, w] in [-1, 1]."""
    ids = [loaded.prompts.token_ids([text]) for text in prompts]
    with torch.no_grad():
        positive = loaded.prompts.encode((torch.cat([i[0] for i in ids]), torch.cat([i[1] for i in ids])))
    seeds = [1000 * seed + i for i in range(len(prompts))]
    return sample_pictures(loaded, positive, loaded.unconditional(len(prompts)), seeds) * 2 - 1


def base_scores(base: Base) -> tuple[dict[str, float], Image.Image]:
    """Share of samples that show each prompted attribute, over held-out combinations, and a sheet of the first seed."""
    judge, loaded, wanted = load_judge(), LoadedBase.load(base), held_out_prompts()
    right = dict.fromkeys(ATTRIBUTES, 0)
    shown: list[Image.Image] = []
    for seed in range(SEEDS):
        made = sample_prompts(loaded, [text for text, _ in wanted], seed)
        for (_, truth), seen in zip(wanted, judge.read(made), strict=True):
            for name in ATTRIBUTES:
                right[name] += seen[name] == truth[name]
        if seed == 0:
            shown = [to_image(row) for row in made[:8]]
    sheet = contact_sheet([text.removeprefix("a photo of ") for text, _ in wanted[:8]], [(base.name, shown)])
    return {name: count / (SEEDS * len(wanted)) for name, count in right.items()}, sheet


def gallery_ceiling(folder: Path, count: int = 30) -> float:
    """Gallery top-1 of renders of unseen identities among other renders of them: what a perfect adapter gets."""
    import random

    judge, subjects = load_judge(), write_subjects(folder, [CLASSES[i % len(CLASSES)] for i in range(count)])
    galleries = [as_tensor(subject.gallery()) for subject in subjects]
    hits = 0
    for index, subject in enumerate(subjects):
        rng = random.Random(f"ceiling-{index}")
        queries = as_tensor([render(random_scene(subject.identity, rng)) for _ in range(4)])
        hits += sum(recognised == index for recognised in recognise(judge, queries, galleries))
    return hits / (4 * count)


def make_report() -> None:
    """Measures everything and writes the page and its pictures."""
    import tempfile

    judge, held_out = load_judge(), pictures("held-out", 2000, crops=False, side=SIDE)
    vae = AutoencoderKL.from_pretrained(SHIPPED["toy-playground"] / "vae").float()
    on_renders = accuracy(judge, held_out)
    on_reconstructions = shares_right(judge, reconstructed(vae, held_out.pixels), held_out.labels)
    rows = [("judge, on renders", on_renders), ("judge, on VAE reconstructions", on_reconstructions)]
    for kind in SHIPPED:
        scores, sheet = base_scores(find_base(kind))
        sheet.save(PAGE.parent / f"{kind}.png")
        rows.append((f"{kind}, samples of held-out prompts", scores))
    with tempfile.TemporaryDirectory() as folder:
        ceiling = gallery_ceiling(Path(folder))
    cropped = pictures("held-out", 1000, side=SIDE).pixels
    fidelity = psnr(reconstructed(vae, cropped), cropped)
    PAGE.write_text(_page(rows, fidelity, ceiling))
    print(PAGE.read_text())


def _page(rows: list[tuple[str, dict[str, float]]], fidelity: float, ceiling: float) -> str:
    table = "\n".join(
        f"| {what} | " + " | ".join(f"{100 * s[name]:.1f} %" for name in ATTRIBUTES) + " |" for what, s in rows
    )
    files = sorted(path for path in (*WEIGHTS.parent.rglob("*.safetensors"),))
    sums = "\n".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(WEIGHTS.parent)}" for path in files
    )
    size = sum(path.stat().st_size for path in files) / 2**20
    machine = f"{describe_machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    return TEMPLATE.format(
        table=table, fidelity=fidelity, ceiling=100 * ceiling, sums=sums, size=size, machine=machine,
        today=datetime.date.today().isoformat(), prompts=len(held_out_prompts()), seeds=SEEDS, side=SIDE,
    )  # fmt: skip


TEMPLATE = """# The toy world, measured

No weights can be downloaded where lorafleet is built and tested, so it ships a small world of its own: ten classes,
continuous hues, markings and proportions, eight backgrounds, drawn at {side} pixels; two bases of the real SDXL
classes, trained on it; and a frozen judge. Its scores are neither DINO nor CLIP and say nothing about photographs. They
say whether the code learns.

| | class | colour | background |
|---|---|---|---|
{table}

* The bases' rows: {prompts} combinations of class, colour and background that no base was trained on, {seeds} seeds
  each, default steps and guidance. The judge's rows: 2,000 renders of a stream of their own; colour is asked where
  one tone covers two thirds of the body.
* VAE: {fidelity:.2f} dB PSNR on 1,000 held-out renders.
* Gallery top-1 among 30 unseen identities, of renders themselves (the ceiling for an adapter): {ceiling:.1f} %.
* Weights: {size:.1f} MiB of fp16 safetensors.

![toy-sdxl](toy-sdxl.png)
![toy-playground](toy-playground.png)

Written by `python tools/make_toy.py report` on {today} ({machine}).

```
{sums}
```

## Making the weights

    python tools/make_toy.py world --work FOLDER --out FOLDER --minutes 4

renders the pictures, trains the VAE and both bases within the minutes it is given, and leaves a pipeline of each base
with a log and sheets of samples. Every training step is one CUDA graph where there is a GPU. What it makes is the next
form of this world, of 64 pixels and a VAE of factor 8; the weights above are of the first form, made on a CPU. It has
been run from end to end on a CPU only, for a few steps. `judge` trains the judge, which looks at 32 pixels in either
form, and `report` writes this page.
"""
