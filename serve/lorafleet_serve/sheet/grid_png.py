"""A sheet as one PNG: blocks side by side while they fit, each a table of pictures with names at its edges.

Knows pictures and names. Refuses to know how they came about.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lorafleet_serve.sheet.cells import Block, Cell, Head

CELLS = (256, 192, 128, 96, 64)
"""Pixels of a picture's side, from the largest that is used to the smallest."""
LEAST = 128
"""Smaller pictures are enlarged by whole pixels to about this, so that a toy's looks like what it is."""
MOST_PIXELS = 36_000_000
WIDEST = 2600
GAP, MARGIN, BETWEEN, TITLE, HEADS = 6, 20, 26, 30, 24
GROUND, INK, SOFT, LINE, MARK, EMPTY = "#ffffff", "#1b1f26", "#5d6675", "#e1e5eb", "#23864f", "#f1f3f6"
Draw = Callable[[Cell], Image.Image | str]
"""A cell's picture, or why there is none."""


@dataclass(frozen=True)
class Layout:
    """Where everything goes, in pixels."""

    cell: int
    labels: int
    """The width of the rows' names."""
    per_line: int
    """Blocks beside each other."""
    width: int
    height: int
    lines: tuple[int, ...]
    """The top of each line of blocks."""


def sheet_png(title: str, under: str, blocks: Sequence[Block], picture: Draw, side: int) -> Image.Image:
    """The whole sheet on white; `side` is that of its largest picture, in pixels."""
    layout = _layout(blocks, side)
    sheet = Image.new("RGB", (layout.width, layout.height), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, _font(22))
    draw.text((MARGIN, MARGIN + 32), under, SOFT, _font(13))
    for number, block in enumerate(blocks):
        line, place = divmod(number, layout.per_line)
        beside = sum(_block_width(one, layout.cell) for one in blocks[line * layout.per_line : number])
        left, top = MARGIN + layout.labels + beside, layout.lines[line]
        if place == 0:
            _rows(draw, block, layout, top + TITLE + HEADS)
        _block(sheet, draw, block, picture, (left, top), layout.cell)
    return sheet


def _layout(blocks: Sequence[Block], side: int) -> Layout:
    enlarged = side * max(1, LEAST // side)
    for cell in (size for size in CELLS if size <= max(enlarged, CELLS[-1]) or size == CELLS[-1]):
        labels = min(260, max(_label_width(head) for block in blocks for head in block.rows)) + 14
        width = _block_width(blocks[0], cell)
        same_rows = len({block.rows for block in blocks}) == 1
        most = max(1, (WIDEST - labels - 2 * MARGIN) // width) if same_rows else 1
        per_line = -(-len(blocks) // -(-len(blocks) // most))  # as many in each line as in the others
        heights = [TITLE + HEADS + len(block.rows) * (cell + GAP) + BETWEEN for block in blocks[::per_line]]
        first = MARGIN + 66
        lines = tuple(first + sum(heights[:i]) for i in range(len(heights)))
        widest = max(
            sum(_block_width(one, cell) for one in blocks[i : i + per_line]) for i in range(0, len(blocks), per_line)
        )
        layout = Layout(cell, labels, per_line, widest + labels + 2 * MARGIN - BETWEEN, first + sum(heights), lines)
        if layout.width * layout.height <= MOST_PIXELS:
            break
    return layout


def _block_width(block: Block, cell: int) -> int:
    return len(block.columns) * (cell + GAP) - GAP + BETWEEN


def _block(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, block: Block, picture: Draw, corner: tuple[int, int], cell: int
) -> None:
    left, top = corner
    width = _block_width(block, cell) - BETWEEN
    draw.text((left, top), _cut(block.title, _font(15), width), INK, _font(15))
    draw.line((left, top + TITLE - 6, left + width, top + TITLE - 6), LINE, 1)
    for column, head in enumerate(block.columns):
        centre = left + column * (cell + GAP) + cell / 2
        draw.text((centre, top + TITLE + HEADS / 2), _cut(head, _font(12), cell), SOFT, _font(12), anchor="mm")
    for row, cells in enumerate(block.cells):
        for column, one in enumerate(cells):
            place = (left + column * (cell + GAP), top + TITLE + HEADS + row * (cell + GAP))
            shown = "" if one is None else picture(one)
            if isinstance(shown, str):
                _empty(draw, place, cell, shown)
            else:
                sheet.paste(_fitted(shown, cell), place)


def _rows(draw: ImageDraw.ImageDraw, block: Block, layout: Layout, top: int) -> None:
    for row, head in enumerate(block.rows):
        y = top + row * (layout.cell + GAP) + layout.cell / 2
        rest = [(head.note, SOFT)] * bool(head.note) + [(head.mark, MARK)] * bool(head.mark)
        y -= 9 * len(rest)
        draw.text((MARGIN, y), _cut(head.text, _font(14), layout.labels - 12), INK, _font(14), anchor="lm")
        for number, (text, colour) in enumerate(rest, 1):
            short = _cut(text, _font(12), layout.labels - 12)
            draw.text((MARGIN, y + 18 * number), short, colour, _font(12), anchor="lm")


def _empty(draw: ImageDraw.ImageDraw, place: tuple[int, int], cell: int, why: str) -> None:
    x, y = place
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), EMPTY)
    text = "\n".join(textwrap.wrap(why, max(8, cell // 7))[: max(1, cell // 16)])
    draw.multiline_text((x + cell / 2, y + cell / 2), text, SOFT, _font(11), anchor="mm", align="center")


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    grown = picture.width < cell and cell % picture.width == 0
    return picture.resize((cell, cell), Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS)


def _label_width(head: Head) -> int:
    named = (_font(14).getlength(head.text), _font(12).getlength(head.note), _font(12).getlength(head.mark))
    return int(max(named))


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
