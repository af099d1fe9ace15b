"""`lorafleet sheet` and `compare` as a reviewer runs them: cells, pixels, files, and what is kept in MLflow."""

import base64
import hashlib
import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from sheet_page import Page, columns

from lorafleet.bases import find_base
from lorafleet.tracking.submissions import SubmissionRecords


@pytest.fixture
def made(lorafleet, tmp_path, capsys):
    """made("sheet", "pets") makes a sheet and returns its page and what was printed as JSON."""

    def make(*arguments, code=0):
        assert lorafleet(*arguments, "--json") == code
        document = json.loads(capsys.readouterr().out)
        return Page(tmp_path / document["page"]), document

    return make


def test_a_submission_s_sheet_shows_its_points_beside_photo_base_and_words(made, reviewed, tmp_path):
    page, document = made("sheet", "pets")
    assert columns(page) == ["a photo of it", "base", "words only", "scale 0.6", "scale 1"]
    assert re.findall(r'<th scope="row"><b>(.*?)</b>', page.text)[:3] == ["rex@1", "rex@2", "tom@1"]
    assert "<span>steps 20 rank 2</span>" in page.text, "points of one name are told apart"
    assert "champion" in page.text
    assert document["pictures"] == 2 * (3 * 3 + 1), "the base of one class and prompt is made once"
    assert page.data["cells"][page.cell("rex@2 at scale 0.6", "beach")]["seed"] == 3, "the validation's"
    photo = page.pixels("0-2-0")
    assert photo.shape == (256, 256, 3)
    assert (abs(photo - [200, 40, 40]) < 3).all(), "the first file that is a picture"
    with Image.open(document["png"]) as png:
        assert png.width > 5 * 128
    records = SubmissionRecords(reviewed.tracking.uri)
    (run,) = document["runs"]
    assert run == reviewed.parents["pets"]
    kept = {artifact.path for artifact in records.client.list_artifacts(run, "sheets")}
    assert kept >= {"sheets/pets-sheet.html", "sheets/pets-sheet.png"}


def test_cells_are_what_generate_makes_of_their_settings(made, lorafleet, tmp_path, capsys):
    page, _ = made(
        "sheet", "rex@2", "rex@1", "--scales", "0.5,1", "--steps", "3", "--prompt", "a photo of TOK {class}, red"
    )
    wanted = {
        "base without rex@2": "a photo of a dog, red",
        "words of rex@2 alone": "TOK dog",
        "rex@2 at scale 0.5": "TOK dog",
    }
    for number, (words, prompt) in enumerate(wanted.items()):
        cell = page.cell(words)
        command = shlex.split(page.data["cells"][cell]["command"])
        assert prompt in command[2]
        assert lorafleet(*command[1:], "--out", f"{number}.png") == 0
        generated = np.asarray(Image.open(tmp_path / f"{number}.png"), dtype=int)
        assert abs(generated - page.pixels(cell)).max() <= 2
    different = abs(page.pixels(page.cell("rex@2 at scale 0.5")) - page.pixels(page.cell("base without rex@2")))
    assert different.max() > 20, "the adapter does something"


def test_the_page_needs_no_other_file_or_host(made):
    page, _ = made("sheet", "rex", "--steps", "1", "--prompt", "<script>alert(1)</script> & TOK")
    assert all(address.startswith("data:image/") for address in page.addresses)
    rules = dict(rule.strip().partition(" ")[::2] for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, text in (
        ("script-src", page.text.rpartition("<script>")[2]),
        ("style-src", page.text.partition("<style>")[2]),
    ):
        digest = hashlib.sha256(text.partition("</")[0].encode()).digest()
        assert rules[kind] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert [tag for tag, _ in page.tags].count("script") == 2, "what a user wrote is text"
    images = [named for tag, named in page.tags if tag == "img" and named.get("src")]
    assert all(named["alt"] and named["loading"] == "lazy" for named in images)


def test_a_sheet_made_again_goes_on_with_its_votes_and_one_of_other_settings_does_not(made):
    same = [made("sheet", "rex@1", "rex@2", "--steps", steps, "--prompt", "TOK")[0].data["id"] for steps in "112"]
    assert same[0] == same[1] != same[2]


def test_where_nothing_was_trained_that_is_said_and_nothing_is_made(lorafleet, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "new"))
    assert lorafleet("sheet", "pets") == 3
    assert "nothing was trained here yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_adapters_without_words_and_photos_leave_their_columns_out(made):
    page, document = made(
        "sheet", "ann", "--no-photo", "--seed", "1", "--seed", "2", "--steps", "1", "--out", "some/ann.html"
    )
    assert columns(page) == ["base", "scale 0.6", "scale 1"]
    assert document["page"].endswith("some/ann.html")
    assert {cell["seed"] for cell in page.data["cells"].values()} == {1, 2}
    assert "Blind vote" not in page.text, "one adapter alone is no vote"


def test_bundles_that_are_registered_nowhere_are_shown_and_not_voted_on(made, reviewed):
    folder = reviewed.home / "bundles" / f"{1:016x}"
    page, document = made("sheet", folder, "rex@2", "--steps", "1")
    assert document["runs"] == [reviewed.parents["pets"]]
    voted = [cell["contestant"]["adapter"] for cell in page.data["cells"].values() if "contestant" in cell]
    assert set(voted) == {"rex@2"}
    assert str(folder) in page.data["cells"][page.cell(f"{1:016x} at scale 1", "beach")]["command"]


def test_two_axes_and_a_table_for_each_of_what_is_neither(made):
    page, document = made("compare", "rex@2", "--x", "scale=0.4,1", "--y", "sampler=edm-euler,edm-dpmpp-2m")
    assert page.text.count("<table>") == 2, "one a prompt"
    assert document["pictures"] == 8
    contestants = {cell["contestant"]["settings"] for cell in page.data["cells"].values()}
    assert contestants == {f"scale {s}, {a}" for s in ("0.4", "1") for a in ("edm-euler", "edm-dpmpp-2m")}
    page, _ = made("compare", "rex@1", "rex@2", "--x", "prompt=TOK red | TOK blue", "--y", "point", "--steps", "1")
    assert re.findall(r'<th scope="row"><b>(.*?)</b>', page.text) == ["steps 20 rank 2", "steps 40 rank 4"]
    assert columns(page) == ["TOK red", "TOK blue"]
    page, _ = made("compare", "pets", "--x", "steps=1,2", "--y", "seed=5,6", "--prompt", "TOK")
    assert page.text.count("<table>") == 3, "one an adapter"
    assert {cell["contestant"]["adapter"] for cell in page.data["cells"].values()} == {"rex@1", "rex@2", "tom@1"}


def test_a_picture_that_cannot_be_made_leaves_a_reason_and_the_others(made, reviewed, tools, capsys):
    wrong = tools["make_bundle"](reviewed.home / "wrong", find_base("toy-playground"), "bad", rank=2)
    weights = {f"unet.nothing.lora_{kind}.weight": torch.zeros(2, 2) for kind in "AB"}
    tools["make_bundle"](
        reviewed.home / "wrong", find_base("toy-playground"), "bad", weights=weights, base_card=wrong.card
    )
    page, document = made("sheet", reviewed.home / "wrong" / "bad", "rex", "--steps", "1", code=1)
    assert "binds no layer" in document["failed"][0]
    assert "binds no layer" in page.text
    assert page.cell("rex@1 at scale 1", "beach") in page.sources


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("sheet", "nobody"), 3, "neither a submission nor an adapter here; there are the adapters ann"),
    (("sheet", "rex@9"), 3, "versions: 2, 1"),
    (("sheet", "rex=0.5"), 2, "give scales with --scales or --x"),
    (("sheet", "rex", "--scales", "much"), 2, "--scales 'much' are no numbers"),
    (("sheet", "rex", "--scales", "9"), 2, "it must be at most 4"),
    (("sheet", "rex", "--scheduler", "ddim"), 2, "allowed are edm-dpmpp-2m, edm-euler"),
    (("sheet", "rex", "--prompt", "<lora:tom:1> TOK"), 2, "names an adapter"),
    (("sheet", "./nothing"), 2, "adapter.json"),
    (("compare", "rex", "--x", "step=10,20"), 2, "no snapshots are kept"),
    (("compare", "rex", "--x", "size=10"), 2, "axis 'size=10' is none; write it as in scale=0.4,0.7,1"),
    (("compare", "rex", "--x", "scale=0.4,x"), 2, "scale takes numbers"),
    (("compare", "rex", "--x", "seed=1,1"), 2, "one twice"),
    (("compare", "rex", "--x", "point"), 2, "both axes are point; choose two different ones"),
    (("compare", "rex", "--y", "adapter=tom"), 2, "write adapter alone"),
], ids=str)  # fmt: skip
def test_mistakes_are_one_line_and_a_code(lorafleet, capsys, tmp_path, arguments, code, says):
    assert lorafleet(*arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
