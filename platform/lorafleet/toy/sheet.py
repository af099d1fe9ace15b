"""Contact sheets: labelled rows of pictures on white."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LABEL, HEAD = 128, 8, 110, 28
INK = (40, 40, 46)


def contact_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Lays pictures out in rows with a name at the left and a heading above each column.

    Small pictures are enlarged by whole pixels, so that a toy picture looks like what it is.
    """
    width = LABEL + len(columns) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEAD + len(rows) * (CELL + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for c, heading in enumerate(columns):
        draw.text((LABEL + c * (CELL + GAP) + CELL / 2, HEAD / 2), _short(heading), INK, font, anchor="mm")
    for r, (name, pictures) in enumerate(rows):
        y = HEAD + r * (CELL + GAP)
        draw.text((GAP, y + CELL / 2), name, INK, font, anchor="lm")
        for c, picture in enumerate(pictures):
            sheet.paste(_fitted(picture), (LABEL + c * (CELL + GAP), y))
    return sheet


def _short(text: str, limit: int = 21) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _fitted(picture: Image.Image) -> Image.Image:
    enlarge = picture.width < CELL
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)
