"""Trains the judge: attributes by cross-entropy, identity by a supervised contrastive loss (Khosla et al. 2020).

It sees renders, VAE-like blur and noise, and identities from a stream of their own; the identities that demos and tests
use are never among them.
"""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lorafleet.toy.judges import ATTRIBUTES, SEEN_SIDE, WEIGHTS, Judge
from lorafleet.toy.render import render
from lorafleet.toy.world import CLASSES, random_identity, random_scene
from toy.data import Pictures, pictures, to_unit

IDENTITIES, VIEWS = 3000, 8


def _views(seed: int) -> np.ndarray:
    rng = random.Random(f"calibration-{seed}")
    identity = random_identity(rng, CLASSES[seed % len(CLASSES)])
    return np.stack([np.asarray(render(random_scene(identity, rng), SEEN_SIDE)) for _ in range(VIEWS)])


def identity_views(count: int = IDENTITIES, first: int = 0) -> Tensor:
    """Views of calibration identities, [count, 8, 3, 32, 32] uint8; class = index modulo the number of classes."""
    with ProcessPoolExecutor() as pool:
        views = list(pool.map(_views, range(first, first + count), chunksize=50))
    return torch.from_numpy(np.stack(views)).permute(0, 1, 4, 2, 3).contiguous()


def degraded(x: Tensor) -> Tensor:
    """Pictures as a VAE or a sampler may leave them: some blurred, some noisy, some dim or pale."""
    n = len(x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, blurred, torch.rand(n, 1, 1, 1) * 0.6)
    x = x + torch.randn_like(x) * torch.rand(n, 1, 1, 1) * 0.12
    return x * (0.9 + 0.2 * torch.rand(n, 1, 1, 1)) + 0.1 * (torch.rand(n, 1, 1, 1) - 0.5)


def contrastive_loss(embeddings: Tensor, owners: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2) of unit embeddings [n, d] and their owners [n]."""
    logits = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(owners), dtype=torch.bool)
    same = (owners[:, None] == owners[None]) & ~itself
    log_p = logits - logits.masked_fill(itself, -1e9).logsumexp(dim=1, keepdim=True)
    return -(log_p * same).sum(dim=1).div(same.sum(dim=1)).mean()


def _identity_batch(views: Tensor, rng: torch.Generator, count: int = 24, each: int = 3) -> tuple[Tensor, Tensor]:
    """Half of the identities are of one class, so that telling classes apart is not enough."""
    noun = int(torch.randint(len(CLASSES), (), generator=rng))
    alike = torch.arange(noun, len(views), len(CLASSES))
    alike = alike[torch.randperm(len(alike), generator=rng)[: count // 2]]
    others = torch.randint(len(views), (count - len(alike),), generator=rng)
    owners = torch.cat([alike, others]).repeat_interleave(each)
    return to_unit(views[owners, torch.randint(VIEWS, (len(owners),), generator=rng)]), owners


def train_judge(data: Pictures, views: Tensor, steps: int = 3000, batch: int = 64) -> Judge:
    """Trains all heads together."""
    torch.manual_seed(0)
    judge, rng = Judge(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(data.pixels), (batch,), generator=rng)
        features = judge.features(degraded(to_unit(data.pixels[rows])))
        loss = sum(
            F.cross_entropy(judge.heads[name](features), data.labels[name][rows], ignore_index=-1)
            for name in ATTRIBUTES
        )
        x, owners = _identity_batch(views, rng)
        loss = loss + contrastive_loss(judge.embed(degraded(x)), owners)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"judge {step}/{steps} loss {loss.item():.4f}", flush=True)
    return judge.eval()


@torch.no_grad()
def accuracy(judge: Judge, data: Pictures) -> dict[str, float]:
    """Share of right answers for each attribute, over the pictures that have a word for it and clearly show it."""
    return shares_right(judge, to_unit(data.pixels), data.labels)


@torch.no_grad()
def shares_right(judge: Judge, x: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """The same of pictures [n, 3, h, w] in [-1, 1]; a label of -1 is not asked for."""
    features = torch.cat([judge.features(chunk) for chunk in x.split(250)])
    result = {}
    for name, head in judge.heads.items():
        asked = labels[name] >= 0
        if name == "colour":
            asked = asked & (labels["clear"] == 1)
        right = head(features).argmax(dim=-1) == labels[name]
        result[name] = float(right[asked].float().mean())
    return result


def make_judge() -> None:
    """Renders, trains and saves the judge, fp16."""
    judge = train_judge(pictures("judge", 60_000, side=SEEN_SIDE), identity_views())
    print(accuracy(judge, pictures("held-out", 2000, crops=False)))
    save_file({name: tensor.half().contiguous() for name, tensor in judge.state_dict().items()}, WEIGHTS)
