"""The stages of making the world's weights: pictures and VAE, then a base. Each can be run by itself.

They find each other's results in the work folder, and put into the output folder what is to be kept, as soon as it is
there.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from lorafleet.toy.judges import as_tensor, load_judge
from lorafleet.toy.sheet import contact_sheet
from lorafleet.toy.tokenizer import build_tokenizer
from lorafleet.toy.world import BACKGROUNDS, CLASSES, COLOURS, WORDS, held_out_prompts
from toy.assemble import KINDS, pipeline_of, save_fp16, standardise
from toy.data import SIDE, pictures, to_unit, trainable
from toy.denoiser import Base, Latents, edm_loss, epsilon_loss, train_base
from toy.judge import accuracy, shares_right
from toy.packing import pack
from toy.time_bound import Limits
from toy.vae import encode, psnr, reconstructed, train_vae

GUIDANCE = {"toy-sdxl": 5.0, "toy-playground": 4.0}
SHOWN = 8  # columns of a sheet


@dataclass(frozen=True)
class Places:
    """Where stages find each other's results (`work`) and put what is to be kept (`out`)."""

    work: Path
    out: Path

    def hand_on(self, name: str, value: object) -> None:
        """Leaves a result for the stages that wait for it."""
        part = self.work / f"{name}.part"
        torch.save(value, part)
        part.replace(self.work / name)

    def wait_for(self, name: str) -> Any:
        """Another stage's result, as soon as it is there."""
        while not (self.work / name).exists():
            time.sleep(0.1)
        return torch.load(self.work / name, weights_only=False)


def best_device() -> torch.device:
    """The GPU if there is one, where float32 products may be TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_vae(places: Places, count: int, render_seconds: float, limits: Limits) -> None:
    """Renders the training pictures, trains the VAE on them, saves it and encodes them all."""
    start = time.monotonic()
    data = pictures("bases", count, seconds=render_seconds)
    held_out = pictures("held-out", min(2000, count), crops=False)
    elapsed = time.monotonic() - start
    print(f"vae: {len(data.pixels)} pictures in {elapsed:.1f} s on {os.cpu_count()} processors", flush=True)
    places.hand_on("captions.pt", dataclasses.replace(data, pixels=torch.empty(0)))
    device = best_device()
    pixels = data.pixels.to(device)
    vae = train_vae(pixels, limits)
    save_fp16(vae.cpu(), places.work / "vae")
    vae.to(device)
    places.hand_on("latents.pt", encode(vae, pixels).cpu())
    pack(places.work / "vae", places.out / "vae.tar.gz")
    del pixels
    again, judge = reconstructed(vae, held_out.pixels.to(device)).cpu(), load_judge()
    print(f"vae: {psnr(again, held_out.pixels):.2f} dB on {len(again)} held-out pictures", flush=True)
    print(f"vae: judge on renders {accuracy(judge, held_out)}", flush=True)
    print(f"vae: judge on reconstructions {shares_right(judge, again, held_out.labels)}", flush=True)
    rows = [("renders", to_unit(held_out.pixels)), ("VAE", again)]
    sheet = contact_sheet([""] * SHOWN, [(name, [to_image(x) for x in xs[:SHOWN]]) for name, xs in rows])
    sheet.save(places.out / "vae.png")


def make_base(kind: str, places: Places, limits: Limits, until: float) -> None:
    """Trains one base on the encoded pictures, until a time of the clock at the latest, and saves it as a pipeline."""
    device = best_device()
    torch.manual_seed(KINDS.index(kind))
    tokenizers = (build_tokenizer(WORDS), build_tokenizer(WORDS, "!"))
    base = Base(tokenizers).to(device)
    data = places.wait_for("captions.pt")
    ids = [
        tokenizer(data.captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        for tokenizer in tokenizers
    ]
    seen = trainable(data.labels)
    latents = places.wait_for("latents.pt")
    vae = AutoencoderKL.from_pretrained(places.work / "vae").float()
    z = standardise(kind, latents)[seen]
    examples = Latents(z, (ids[0][seen], ids[1][seen]), data.time_ids[seen]).to(device)

    def save(average: nn.Module) -> None:
        apart = copy.deepcopy(average).cpu()  # what is recorded writes where the average is now
        save_fp16(pipeline_of(kind, apart, vae, latents), places.work / kind)
        pack(places.work / kind, places.out / f"{kind}.tar.gz")

    loss = edm_loss if kind == "toy-playground" else epsilon_loss(device)
    limits = dataclasses.replace(limits, seconds=max(10.0, min(limits.seconds, until - time.time())))
    average = train_base(kind, base, examples, loss, limits, save)
    save(average)
    show_samples(kind, places.work / kind, places.out / f"{kind}.png", device)


def show_samples(kind: str, folder: Path, sheet: Path, device: torch.device, seeds: int = 2) -> None:
    """Samples every held-out prompt with the saved pipeline, says what the judge sees in them and shows some."""
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    wanted, judge, rows = held_out_prompts(), load_judge(), []
    labels = {
        name: torch.tensor([words.index(truth[name]) for _, truth in wanted])
        for name, words in (("class", CLASSES), ("colour", COLOURS), ("background", tuple(BACKGROUNDS)))
    }
    labels["clear"] = torch.ones(len(wanted), dtype=torch.long)
    for seed in range(seeds):
        start, generators = (
            time.monotonic(),
            [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(wanted))],
        )
        made = pipe(
            [text for text, _ in wanted], height=SIDE, width=SIDE, num_inference_steps=25,
            guidance_scale=GUIDANCE[kind], generator=generators,
        ).images  # fmt: skip
        print(f"{kind}: seed {seed}, judge {shares_right(judge, as_tensor(made), labels)}, "
              f"{time.monotonic() - start:.1f} s for {len(made)} pictures", flush=True)  # fmt: skip
        picked = range(seed, len(wanted), max(1, len(wanted) // SHOWN))
        rows.append((f"seed {seed}", [made[i] for i in picked][:SHOWN]))
        headings = [wanted[i][0].removeprefix("a photo of ") for i in picked][:SHOWN]
        contact_sheet(headings, rows).save(sheet)


def to_image(x: torch.Tensor) -> Image.Image:
    """One picture [3, h, w] in [-1, 1] as RGB."""
    return Image.fromarray(((x.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy())
