"""Masks beside images, `name-mask.png`: which there are, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorafleet_jobs.dataset import find_masks
from lorafleet_jobs.findings import Finding
from lorafleet_jobs.images import Looks
from lorafleet_jobs.jobspec import MaskSpec
from lorafleet_jobs.opening import Opened, open_image


def read_masks(folder: Path, images: Sequence[Opened], used: bool) -> tuple[dict[str, MaskSpec], list[Finding]]:
    """The masks by image file, and the findings about them; `used`: some recipe has masked_loss."""
    found = find_masks(folder)
    beside = {image.file: found[stem] for image in images if (stem := Path(image.file).stem) in found}
    if not used:
        return {}, [_unused(len(beside))] if beside else []
    if images and not beside:
        message = "masked_loss is set, but no image has a mask; add name-mask.png beside name.png, or leave it out"
        return {}, [_error("D025", message, None)]
    masks: dict[str, MaskSpec] = {}
    findings: list[Finding] = []
    for image in images:
        if image.file not in beside:
            continue
        mask = open_image(folder, beside[image.file])
        problem = mask.with_changes(level="error") if isinstance(mask, Finding) else _problem(folder, mask, image)
        if problem is not None:
            findings.append(problem)
        elif isinstance(mask, Opened):
            findings += mask.warnings
            masks[image.file] = MaskSpec(file=mask.file, sha256=mask.sha256)
    if len(beside) < len(images):
        message = f"{len(images) - len(beside)} of {len(images)} images have no mask; all of each counts"
        findings.append(Finding(id="D025", level="info", message=message))
    return masks, findings


def same_shape(one: Looks, other: Looks) -> bool:
    """Whether two sizes are one shape, but for the rounding of the smaller one to whole pixels."""
    small, large = sorted((one, other), key=lambda looks: looks.width * looks.height)
    return (
        abs(small.width - small.height * large.width / large.height) <= 1
        or abs(small.height - small.width * large.height / large.width) <= 1
    )


def _problem(folder: Path, mask: Opened, image: Opened) -> Finding | None:
    if not same_shape(mask.looks, image.looks):
        sizes = [f"{looks.width} x {looks.height}" for looks in (mask.looks, image.looks)]
        message = f"{mask.file} is {sizes[0]}, but {image.file} is {sizes[1]}; give a mask of the image's size"
        return _error("D023", message, mask.file)
    if mask.black:
        return _error(
            "D024", f"{mask.file} is all black: nothing of {image.file} would count; paint it white", mask.file
        )
    return None


def _unused(count: int) -> Finding:
    message = f"{count} mask{'s' * (count > 1)} not used; set masked_loss: 0 in the recipe to train on what is white"
    return Finding(id="D025", level="info", message=message)


def _error(id: str, message: str, file: str | None) -> Finding:  # noqa: A002
    return Finding(id=id, level="error", message=message, file=file)
