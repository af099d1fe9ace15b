"""Ids of findings: the page for users and the module list exactly those that the dataset doctor gives."""

import re
from pathlib import Path

import pytest

from lorafleet_jobs.dataset import findings
from lorafleet_jobs.dataset.findings import SHOWN, some
from lorafleet_jobs.image_formats import READ

DOCS = Path(__file__).parents[3] / "docs"


def given() -> set[str]:
    folder = Path(findings.__file__).parent
    modules = [path for path in folder.glob("*.py") if path.name != "findings.py"]
    return {id for path in modules for id in re.findall(r"\bD0\d\d\b", path.read_text())}  # noqa: A001


@pytest.mark.parametrize("listed", [findings.__doc__ or "", (DOCS / "photos.md").read_text().split("## What")[1]])
def test_every_id_is_listed_once(listed: str) -> None:
    assert sorted(re.findall(r"\bD0\d\d\b", listed)) == sorted(given())


def test_the_page_names_every_format_that_is_read() -> None:
    page = (DOCS / "photos.md").read_text()
    assert all(name in page for name in re.split(r", | or ", READ))


@pytest.mark.parametrize("count", [1, SHOWN, SHOWN + 1, 400])
def test_many_names_are_the_first_and_a_count(count: int) -> None:
    names = [f"{n}.jpg" for n in range(count)]
    said = some(names)
    assert said.startswith(", ".join(names[:SHOWN]))
    assert said.endswith(f" and {count - SHOWN} more" if count > SHOWN else names[-1])
