"""The rule of every check: what a user put into a folder is used, or a finding names it.

Files, lines of a table and its columns are drawn, each text with words of its own; so whether it is trained can be read
off the captions of the images.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
import unicodedata
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lorafleet.config import Manifest
from lorafleet_jobs.dataset.doctor import Needs, SubjectReport, check

STEMS = [
    "a",
    "A",
    "b",
    "Müsli",
    unicodedata.normalize("NFD", "Müsli"),
    "a-mask",
    "b.c",
    ".secret",
    "readme",
    "no image",
]
PICTURES = [".jpg", ".JPG", ".png", ".webp", "", "-mask.png", "-mask.jpg", ".jpg~", ".jpg.bak", ".jpg_original"]
TEXTS = [".txt", ".TXT", ".caption", ".jpg.txt", ".tags", ".md", ".txt.bak", ".srt"]
OTHERS = [".json", ".jpg.json", ".heic", ".xmp", ".npz", ".part"]
TABLES = [
    "metadata.jsonl",
    "metadata.csv",
    "METADATA.CSV",
    "metadata.tsv",
    "metadata.json",
    "captions.json",
    "captions.csv",
]
WRITTEN = [
    "a.jpg",
    "./a.jpg",
    "x\\b.jpg",
    "A.JPG",
    "a",
    "Müsli.jpg",
    "no image.jpg",
    "../a.jpg",
    "b.png",
    "sub/a.jpg",
    "a.txt",
]
COLUMNS = ["prompt", "caption", "text", "Prompt", "colour", "score"]
SYSTEM = {"._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"}


def picture(seed: int) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True)
class Said:
    """One word of a text that lies in a folder."""

    word: str
    file: str
    line: int | None = None
    """Of a table."""
    column: str | None = None
    """Of a table, or a key of JSON."""


@dataclass
class Given:
    """What lies in a folder; no two texts hold the same word."""

    files: dict[str, bytes] = field(default_factory=dict)
    words: list[Said] = field(default_factory=list)


def given_files(*words: Said, **files: bytes) -> Given:
    """`a_txt=` is a.txt."""
    return Given({name.replace("__", "-").replace("_", "."): data for name, data in files.items()}, list(words))


@st.composite
def folders(draw: st.DrawFn) -> Given:
    images = draw(st.sets(st.sampled_from(["a.jpg", "b.png", "b.jpg"]), min_size=1))  # else few tables name one
    drawn = Given({name: picture(100 + n) for n, name in enumerate(sorted(images))})
    names = st.tuples(st.sampled_from(STEMS), st.sampled_from([*PICTURES, *TEXTS, *OTHERS]))
    for number, (stem, suffix) in enumerate(draw(st.lists(names, max_size=10, unique=True))):
        name = stem + suffix
        if suffix in PICTURES:
            drawn.files[name] = picture(number)
        elif suffix.endswith(".json"):
            keys = draw(st.lists(st.sampled_from(COLUMNS), max_size=2, unique=True))
            words = {key: f"w{number}k{i}" for i, key in enumerate(keys)}
            drawn.files[name] = json.dumps(words).encode()
            drawn.words += [Said(word, name, column=key) for key, word in words.items()]
        else:
            encoding = draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
            drawn.files[name] = f"TOK w{number}".encode(encoding)
            drawn.words.append(Said(f"w{number}", name))
    for number, table in enumerate(draw(st.lists(st.sampled_from(TABLES), max_size=2, unique=True))):
        _add_table(draw, drawn, table, f"t{number}x")
    drawn.files |= dict.fromkeys(draw(st.sets(st.sampled_from(sorted(SYSTEM)))), b"\0")
    return drawn


def _add_table(draw: st.DrawFn, drawn: Given, table: str, mark: str) -> None:
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3, unique=True))
    first = 1 if "json" in table else 2
    rows = []
    for number, written in enumerate(draw(st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=5))):
        row = {"file_name": written}
        for i, column in enumerate(columns):
            words = [f"w{mark}{number}y{i}z{part}" for part in range(draw(st.integers(1, 2)))]
            row[column] = ", ".join(words)
            drawn.words += [Said(word, table, first + number, column) for word in words]
        rows.append(row)
    if table.endswith("jsonl"):
        text = "\n".join(map(json.dumps, rows))
    elif table.endswith("json"):
        text = json.dumps(rows)
    else:
        text = _csv(rows, draw(st.sampled_from("\t" if table.endswith("tsv") else ",;")), draw(st.booleans()))
    drawn.files[table] = text.encode()


def _csv(rows: list[dict[str, str]], delimiter: str, quoted: bool) -> str:
    stream = StringIO(newline="")
    if quoted:
        writer = csv.DictWriter(stream, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()
    return "\n".join(delimiter.join(line) for line in (list(rows[0]), *(list(row.values()) for row in rows)))


def examined(given_: Given, masks: bool) -> SubjectReport:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "rex"
        home.mkdir()
        for name, content in given_.files.items():
            (home / name).write_bytes(content)
        subjects = [{"name": "rex", "images": "rex", "class": "dog"}]
        manifest = Manifest.model_validate({"name": "m", "subjects": subjects})
        [report] = check(manifest, Path(folder), Needs(masks=masks))
        return report


def trained_words(report: SubjectReport) -> set[str]:
    return {word for image in report.images for word in re.findall(r"w\w+", image.caption or "")}


def about(report: SubjectReport, file: str) -> list[str]:
    """What is said of a file by its name."""
    named = re.compile(rf"(?<![\w~]){re.escape(file)}(?![\w~])")
    return [finding.message for finding in report.findings if named.search(finding.message)]


def tells(message: str, said: Said) -> bool:
    """Whether a finding about a file says that this word of it is not used."""
    if "columns that are not used: " in message or "keys that are not used: " in message:
        return said.column in message.partition("are not used: ")[2].split(", ")
    numbers = [match[1].strip(" ,").split(", ") for match in re.finditer(r"\blines? ([\d, -]+)", message)]
    if not numbers or said.line is None or any(words in message for words in ("not read", "no line of")):
        return True  # of the whole file
    runs = [run.strip().partition("-") for match in numbers for run in match]
    return any(int(low) <= said.line <= int(high or low) for low, _, high in runs)


def lost(given_: Given, report: SubjectReport) -> list[str]:
    """Everything that is neither used nor named."""
    trained, used = trained_words(report), {image.file for image in report.images}
    used |= {image.mask.file for image in report.images if image.mask is not None}
    used |= {said.file for said in given_.words if said.word in trained}
    found = [name for name in given_.files if name not in used | SYSTEM and not about(report, name)]
    for said in given_.words:
        if said.word not in trained and not any(tells(message, said) for message in about(report, said.file)):
            found.append(f"{said.file} line {said.line}: {said.column} {said.word}")
    return found


JPG = {"a_jpg": picture(0)}


@settings(max_examples=300, deadline=None)
@given(folders(), st.booleans())
@example(Given({"a.jpg~": picture(0), "a.jpg": picture(1)}), False)
@example(given_files(**JPG, a__mask_png=picture(1), a__mask_jpg=picture(2)), True)
@example(given_files(a_heic=b"", a__mask_png=picture(1), b_jpg=picture(2), b__mask_jpg=picture(3)), True)
@example(given_files(Said("w1", "a.txt"), Said("w2", "a.caption"), **JPG, a_txt=b"w1", a_caption=b"w2"), False)
@example(
    given_files(
        Said("w1", "a.txt"), Said("w2", "metadata.csv", 2, "prompt"), **JPG,
        a_txt=b"w1", metadata_csv=b"file_name,prompt\na.jpg,w2\n",
    ), False,
)  # fmt: skip
@example(
    given_files(
        Said("w1", "metadata.csv", 2, "prompt"), Said("w2", "metadata.csv", 3, "prompt"), **JPG,
        metadata_csv=b"file_name,prompt\na.jpg,w1\na.jpg,w2\n",
    ), False,
)  # fmt: skip
def test_everything_is_used_or_named(given_: Given, masks: bool) -> None:
    assert lost(given_, examined(given_, masks)) == []


@pytest.mark.parametrize("name", sorted(SYSTEM))
def test_only_what_systems_leave_by_themselves_is_passed_over(name: str) -> None:
    report = examined(Given({"a.png": picture(0), name: b"\0"}), masks=False)
    assert [finding.id for finding in report.findings] == ["D001", "D010"]
