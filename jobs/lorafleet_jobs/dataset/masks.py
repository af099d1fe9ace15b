"""Masks beside images, `name-mask.png`: which there are, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorafleet_jobs.dataset.findings import Finding, error, finding, some
from lorafleet_jobs.dataset.listing import Listing
from lorafleet_jobs.dataset.open_image import OpenedImage, open_image
from lorafleet_jobs.images import ImageFingerprint
from lorafleet_jobs.jobspec import MaskSpec


def read_masks(
    listing: Listing, images: Sequence[OpenedImage], used: bool
) -> tuple[dict[str, MaskSpec], list[Finding]]:
    """The masks by image file, and the findings about them; `used`: some recipe has masked_loss."""
    beside = {image.file: mask for image in images if (mask := listing.masks.get(Path(image.file).stem))}
    if not used:
        return {}, [_unused([mask.name for mask in listing.masks.values()])] if listing.masks else []
    findings: list[Finding] = []
    if images and not beside:
        message = "masked_loss is set, but no image has a mask; add name-mask.png beside name.png, or leave it out"
        findings.append(error("D025", message))
    if idle := [mask.name for mask in listing.masks.values() if mask not in beside.values()]:
        message = f"masks not used, their images are not trained on: {some(idle)}"
        findings.append(finding("D025", "info", message))
    masks: dict[str, MaskSpec] = {}
    for image in images:
        if image.file not in beside:
            continue
        opened = open_image(listing.folder, beside[image.file])
        problem = opened.with_changes(level="error") if isinstance(opened, Finding) else _problem(opened, image)
        if problem is not None:
            findings.append(problem)
        elif isinstance(opened, OpenedImage):
            findings += opened.notes
            masks[image.file] = MaskSpec(file=opened.file, sha256=opened.sha256)
    if beside and len(beside) < len(images):
        message = f"{len(images) - len(beside)} of {len(images)} images have no mask; all of each counts"
        findings.append(finding("D025", "info", message))
    return masks, findings


def same_shape(one: ImageFingerprint, other: ImageFingerprint) -> bool:
    """Whether two sizes are one shape, but for the rounding of the smaller one to whole pixels."""
    small, large = sorted((one, other), key=lambda looks: looks.width * looks.height)
    return (
        abs(small.width - small.height * large.width / large.height) <= 1
        or abs(small.height - small.width * large.height / large.width) <= 1
    )


def _problem(mask: OpenedImage, image: OpenedImage) -> Finding | None:
    if not same_shape(mask.looks, image.looks):
        sizes = [f"{looks.width} x {looks.height}" for looks in (mask.looks, image.looks)]
        message = f"{mask.file} is {sizes[0]}, but {image.file} is {sizes[1]}; give a mask of the image's size"
        return error("D023", message, mask.file)
    if mask.black:
        message = f"{mask.file} is all black: nothing of {image.file} would count; paint it white"
        return error("D024", message, mask.file)
    return None


def _unused(names: Sequence[str]) -> Finding:
    """Of masks that no recipe asks for."""
    count = f"{len(names)} mask{'s' * (len(names) > 1)} not used ({some(names)})"
    return finding("D025", "info", f"{count}; set masked_loss: 0 in the recipe to train on what is white")
