"""Findings about a subject's images: how many, how large, how sharp, which are alike, and what the set lacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from lorafleet_jobs.dataset.findings import Finding, finding, some
from lorafleet_jobs.dataset.open_image import OpenedImage
from lorafleet_jobs.dataset.similar import has_one_background, has_one_view, similar_groups
from lorafleet_jobs.sharpness import blurred

FEW, MANY = 4, 30
ODD_ASPECT = 2.0


def about_count(good: Sequence[OpenedImage]) -> Iterator[Finding]:
    """That there are few or many; that there are none is told elsewhere."""
    count = len({opened.looks.pixels for opened in good})
    if 0 < count < FEW:
        yield finding("D001", "warn", f"only {count} different image{'s' * (count > 1)}; 4 to 30 work best, add some")
    elif count > MANY:
        yield finding("D001", "info", f"{count} images; 4 to 30 are usually enough")


def about_pictures(good: Sequence[OpenedImage], resolution: int | None) -> Iterator[Finding]:
    """What stands out of each picture, and which are alike; `resolution` None: low resolution is not judged."""
    for opened in good:
        yield from opened.notes
        width, height = opened.looks.width, opened.looks.height
        if resolution is not None and min(width, height) < resolution / 2:
            message = f"{opened.file} is {width} x {height}; it will be enlarged to {resolution}, give a larger one"
            yield finding("D004", "warn", message, opened.file)
        if max(width, height) > ODD_ASPECT * min(width, height):
            message = f"{opened.file} is {width} x {height}; more than 2:1, the ends will be cut off, crop it yourself"
            yield finding("D009", "warn", message, opened.file)
    yield from _about_small(good, resolution)
    yield from _about_alike(good)
    yield from _about_quality(good)
    if layers := [opened.file for opened in good if opened.see_through]:
        which = "1 picture is" if len(layers) == 1 else f"{len(layers)} pictures are"
        message = f"{which} transparent in places, where white is trained: {some(layers)}; "
        yield finding("D033", "info", f"{message}save on another colour if white is not meant", layers[0])


def about_set(name: str, good: Sequence[OpenedImage]) -> Iterator[Finding]:
    """What a few more photographs would teach: of other places, or from other sides. Few pictures are not judged."""
    looks = list({opened.looks.pixels: opened.looks for opened in good}.values())
    if len(looks) < FEW:
        return
    one_background, one_view = has_one_background(looks), has_one_view(looks)
    if one_background and one_view and similar_groups(looks) == [list(range(len(looks)))]:
        return  # nearly the same picture, which is told
    if one_background:
        message = f"all {len(looks)} photographs of {name} have one background; "
        yield finding("D036", "info", f"{message}a few elsewhere let the adapter tell {name} from what is around it")
    if one_view:
        message = f"all {len(looks)} photographs show {name} from one side and at one size; "
        yield finding("D037", "info", f"{message}a few from other sides, nearer and farther, let it be painted so too")


def _about_small(good: Sequence[OpenedImage], resolution: int | None) -> Iterator[Finding]:
    """Those that have to be enlarged a little; of the others each is told."""
    sides = {opened.file: min(opened.looks.width, opened.looks.height) for opened in good}
    if resolution is not None and (
        small := [name for name, side in sides.items() if resolution / 2 <= side < resolution]
    ):
        which = "1 picture is" if len(small) == 1 else f"{len(small)} pictures are"
        message = f"{which} smaller than the {resolution} pixels a side that are trained: {some(small)}; "
        yield finding("D004", "info", f"{message}larger ones teach finer detail", small[0])


def _about_quality(good: Sequence[OpenedImage]) -> Iterator[Finding]:
    """Pictures that teach what the subject does not have: blur, and a telephone's bars."""
    if soft := [good[i].file for i in blurred([opened.looks.sharpness for opened in good])]:
        verb, which = ("is", "a sharp one teaches") if len(soft) == 1 else ("are", "sharp ones teach")
        yield finding("D034", "warn", f"{some(soft)} {verb} blurred; {which} detail, blur is learned too", soft[0])
    if screens := [opened.file for opened in good if opened.screenshot]:
        verb = "looks like a screenshot" if len(screens) == 1 else "look like screenshots"
        message = f"{some(screens)} {verb}, of a screen's size and with bars above and below; "
        yield finding("D035", "warn", f"{message}give the picture itself, or crop to it", screens[0])


def _about_alike(good: Sequence[OpenedImage]) -> Iterator[Finding]:
    """One finding for each group of pictures that are the same, and of those that nearly are."""
    same: dict[str, list[OpenedImage]] = defaultdict(list)
    for opened in good:
        same[opened.looks.pixels].append(opened)
    for first, *others in same.values():
        if others:
            message = f"{_are(others)} the same picture as {first.file}; keep one of them"
            yield finding("D005", "warn", message, others[0].file)
    different = [group[0] for group in same.values()]
    for group in similar_groups([opened.looks for opened in different]):
        first, *others = [different[i] for i in group]
        message = f"{_are(others)} nearly the same picture as {first.file}; different views teach more"
        yield finding("D006", "warn", message, others[0].file)


def _are(images: Sequence[OpenedImage]) -> str:
    return f"{some([opened.file for opened in images])} {'are' if len(images) > 1 else 'is'}"
