"""Scores as pure functions of embeddings, similarities and pixels. Knows tensors only.

Embeddings are of unit length, [n, d]; their similarity is the cosine. Pictures are [n, 3, h, w] in [0, 1]; their
similarity is 1 - mean |a - b|.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor


def fidelity(samples: Tensor, gallery: Tensor) -> float:
    """Mean cosine of all pairs of a sample and a real view: DreamBooth's DINO score (2208.12242, section 4.1)."""
    return float((samples @ gallery.T).mean())


def top_1(samples: Tensor, own: Tensor, others: Sequence[Tensor]) -> float:
    """Share of samples nearer to their own gallery than to every other one, by the mean cosine to its pictures.

    As in Finer-Personalization Rank (2512.19026); a tie counts as a miss.
    """
    score = (samples @ own.T).mean(dim=1)
    best = torch.stack([(samples @ other.T).mean(dim=1) for other in others]).amax(dim=0)
    return float((score > best).float().mean())


def mean_average_precision(samples: Tensor, own: Tensor, others: Sequence[Tensor]) -> float:
    """Each sample ranks all real views by cosine; the subject's own are the relevant ones (2512.19026).

    AP = mean over own views v of |own views at least as near as v| / |views at least as near as v|.
    """
    mine = samples @ own.T  # [n, m]
    every = torch.cat([mine, *(samples @ other.T for other in others)], dim=1)
    relevant = (mine[:, None, :] >= mine[:, :, None]).sum(dim=2)
    ranks = (every[:, None, :] >= mine[:, :, None]).sum(dim=2)
    return float((relevant / ranks).mean())


def embedding_diversity(embeddings: Tensor) -> float | None:
    """Mean 1 - cosine over pairs of samples of the same prompt; `embeddings` [prompts, k, d], None for k < 2."""
    return _mean_of_pairs(1 - embeddings @ embeddings.mT)


def pixel_diversity(pictures: Tensor) -> float | None:
    """Mean |a - b| over pairs of samples of the same prompt; `pictures` [prompts, k, 3, h, w], None for k < 2."""
    flat = pictures.flatten(2)
    return _mean_of_pairs(torch.cdist(flat, flat, p=1) / flat.shape[-1])


def pixel_similarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - mean |a - b| of every pair, [n, m]."""
    flat = a.flatten(1)
    return 1 - torch.cdist(flat, b.flatten(1), p=1) / flat.shape[1]


def memorisation(to_training: Tensor, to_held_out: Tensor) -> float:
    """Similarity to the nearest training picture less that to the nearest held-out view, mean over samples.

    Above 0: samples are nearer to what was trained on than to other real views, which is what copies are. `to_training`
    [n, t] and `to_held_out` [n, h]. The nearest of many is nearer than the nearest of few, so both are expected over
    random subsets of min(t, h) pictures.
    """
    count = min(to_training.shape[1], to_held_out.shape[1])
    return float((expected_nearest(to_training, count) - expected_nearest(to_held_out, count)).mean())


def memorisation_leave_one_out(to_training: Tensor, among_training: Tensor) -> float | None:
    """The same where no held-out views exist: less what each training picture has to the nearest of the others.

    Above 0: samples are nearer to training pictures than these are to each other. A base's blur is on one side only,
    so it reads lower than `memorisation`. `among_training` [t, t]; None for t < 2.
    """
    t = len(among_training)
    if t < 2:
        return None
    others = among_training[~torch.eye(t, dtype=torch.bool)].view(t, t - 1)
    return float(expected_nearest(to_training, t - 1).mean() - others.amax(dim=1).mean())


def expected_nearest(similarities: Tensor, count: int) -> Tensor:
    """The expected greatest similarity over random subsets of `count` columns, [n]; `similarities` [n, m].

    The i-th smallest of m is the greatest of C(i - 1, count - 1) of the C(m, count) subsets.
    """
    m = similarities.shape[1]
    weights = [comb(i, count - 1) / comb(m, count) for i in range(m)]
    ascending = similarities.sort(dim=1).values
    return ascending @ torch.tensor(weights, dtype=ascending.dtype)


def _mean_of_pairs(distances: Tensor) -> float | None:
    """Mean over i < j of `distances` [groups, k, k]."""
    k = distances.shape[-1]
    if k < 2:
        return None
    row, column = torch.triu_indices(k, k, offset=1)
    return float(distances[:, row, column].mean())
