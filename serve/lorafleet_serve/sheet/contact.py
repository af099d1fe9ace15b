"""A contact sheet: rows of adapters; a training photo, the base, the words alone, the adapter at some scales. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lorafleet_serve.sheet.candidates import Candidate, Found
from lorafleet_serve.sheet.cells import Block, Cell, Shot, contestants_of, head_of, shown_prompt

PHOTO, BASE, WORDS = "a photo of it", "base", "words only"


def contact_blocks(
    found: Found, photos: Sequence[Path | None], prompts: Sequence[str], seeds: Sequence[int], scales: Sequence[float],
    like: Shot,
) -> tuple[Block, ...]:  # fmt: skip
    """A block for each seed and prompt; `photos` are the candidates' own, `like` gives all that does not vary.

    The columns of photos and of words alone are there if any candidate has one.
    """
    blocks = []
    for seed in seeds:
        for prompt in prompts:
            title = shown_prompt(prompt, found) + (f", seed {seed}" if len(seeds) > 1 else "")
            shot = replace(like, prompt=prompt, seed=seed)
            rows = [
                _row(found, candidate, photo, scales, replace(shot, of=candidate, candidate=candidate), title)
                for candidate, photo in zip(found.candidates, photos, strict=True)
            ]
            shown = [i for i in range(len(rows[0])) if any(row[i] is not None for row in rows) or i == 1]
            heads = (PHOTO, BASE, WORDS, *(f"scale {scale:g}" for scale in scales))
            blocks.append(
                Block(
                    title,
                    tuple(map(head_of, found.candidates)),
                    tuple(heads[i] for i in shown),
                    tuple(tuple(row[i] for i in shown) for row in rows),
                )
            )
    return tuple(blocks)


def _row(
    found: Found, candidate: Candidate, photo: Path | None, scales: Sequence[float], shot: Shot, title: str
) -> list[Cell | None]:
    contestant, group = contestants_of(found, candidate)
    label = candidate.label

    def cell(says: str, shot: Shot, among: str = "") -> Cell:
        request = shot.request()
        alt = f"{says}: {request.prompt}, seed {request.seed}"
        return Cell(alt, request, None, shot.candidate, contestant if among else None, among)

    base = cell(f"the base without {label}", replace(shot, candidate=None))
    words = cell(f"the learned words of {label} alone", replace(shot, scale=0.0)) if candidate.has_words else None
    adapted = [
        cell(f"{label} at scale {scale:g}", replace(shot, scale=scale), f"{group}|{title}|{scale:g}")
        for scale in scales
    ]
    photographed = None if photo is None else Cell(f"a photo that {label} was trained on", photo=photo)
    return [photographed, base, words, *adapted]
