"""docs/api.md says what the code does."""

import re

import httpx
import openai
import pytest

from lorafleet.config.strict import parse
from lorafleet_serve.api.a1111.routes import EMPTY
from lorafleet_serve.api.error_replies import STATUSES
from lorafleet_serve.api.image_links import LINK_BYTES, LINK_SECONDS, MIB
from lorafleet_serve.api.lists import MOST_LISTED
from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.words.foreign_names import SAME
from lorafleet_serve.api.words.sampler_names import sampler_named


@pytest.fixture(scope="module")
def text(request):
    return (request.config.rootpath / "docs" / "api.md").read_text()


def rows(text, heading):
    """The cells of the rows of the table under a header row that begins so."""
    table = re.search(rf"^\| {re.escape(heading)} .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


def test_errors(text):
    told = {(int(status), code.strip("`")): error.strip("`") for status, code, error, _ in rows(text, "status")}
    assert set(told) == {(int(status), code) for _, status, code in STATUSES}
    client, asked = openai.OpenAI(api_key="none"), httpx.Request("POST", "http://test")
    for (status, _), error in told.items():
        raised = client._make_status_error("", body=None, response=httpx.Response(status, request=asked))
        assert type(raised).__name__ == error


def test_other_names(text):
    told = {}
    for theirs, ours in rows(text, "others write"):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", theirs.partition(";")[0]), ours.partition(";")[0].strip("`"))
    assert {name: ours for name, ours in told.items() if name in SAME} == SAME
    sampler_row = next(row for row in rows(text, "others write") if "Euler a" in row[0])
    theirs, ours = (re.findall(r"`([^`]+)`", cell.partition(";")[2]) for cell in sampler_row)
    assert [sampler_named(name, ours) for name in theirs] == ours


def test_openai_s_fields_and_bounds(text):
    told = {name for row in rows(text, "OpenAI's field") for name in re.findall(r"`(\w+)`", row[0])}
    assert told <= set(ImagesRequest.model_fields)
    accepted = next(row[0] for row in rows(text, "OpenAI's field") if "moderation" in row[0])
    for name in re.findall(r"`(\w+)`", accepted):
        value = 2 if name == "partial_images" else "some"
        parse(ImagesRequest, {"prompt": "a", name: value}, "body")
    assert f"{MOST_LISTED} at most" in text
    assert f"the {LINK_BYTES // MIB} MiB" in text
    assert LINK_SECONDS == 600
    assert "ten minutes" in text


def test_a1111_s_lists(text):
    row = next(row[0] for row in rows(text, "route") if "upscalers" in row[0])
    assert set(re.findall(r"`(?:GET )?([\w-]+)`", row)) <= set(EMPTY)
