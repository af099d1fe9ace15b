"""A sheet's page as a reviewer uses it: by keyboard, two cells side by side, blind votes, an export, no network."""

import json
import time
from collections import Counter

import pytest
from browser import Browser

from lorafleet_serve.sheet.votes import read_votes


@pytest.fixture(scope="module")
def page(reviewed, tmp_path_factory):
    """The page of `pets`, made by the command."""
    from lorafleet.cli import new_app, run
    from lorafleet_serve.commands import register

    folder = tmp_path_factory.mktemp("page")
    app = new_app()
    register(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLEET_HOME", str(reviewed.home))
        assert (
            run(app, ["sheet", "pets", "--out", str(folder / "pets"), "--steps", "1", "--seed", "1", "--seed", "2"])
            == 0
        )
    return folder / "pets.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def shown(browser, page):
    browser.open(page)
    browser.js("localStorage.clear()")
    browser.open(page)
    return browser


def focused(browser):
    return browser.js("document.activeElement.dataset.cell")


def test_arrow_keys_move_between_cells_and_one_cell_is_in_the_tab_order(shown):
    shown.js("document.querySelector('.cell').focus()")
    assert focused(shown) == "0-0-0"
    for key, cell in (("ArrowRight", "0-0-1"), ("ArrowDown", "0-1-1"), ("ArrowDown", "0-2-1"), ("ArrowDown", "1-0-1"),
                      ("ArrowUp", "0-2-1"), ("ArrowLeft", "0-2-0"), ("ArrowLeft", "0-2-0")):  # fmt: skip
        shown.press(key)
        assert focused(shown) == cell
        assert shown.js("document.querySelectorAll('.cell[tabindex=\"0\"]').length") == 1
    shown.js("byId('find').value = 'tom'; byId('find').dispatchEvent(new Event('input'))")
    assert shown.js("[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length") == 4
    shown.press("ArrowDown")
    assert focused(shown) == "1-2-0", "hidden rows are passed over"


def test_two_cells_stand_side_by_side_with_their_exact_settings(shown):
    shown.js("document.querySelector('[data-cell=\"0-0-4\"]').focus()")
    shown.press("p", "ArrowDown", "Enter")
    assert shown.js("viewer.open")
    texts = shown.js("[...document.querySelectorAll('#viewer .pane')].map((pane) => pane.innerText)")
    assert [text.split(":")[0] for text in texts] == ["rex@1 at scale 1", "rex@2 at scale 1"]
    assert "edm-dpmpp-2m, 1 step" in texts[1]
    assert "lorafleet generate 'a photo of TOK dog on the beach' --adapter rex@2=1 --steps 1" in texts[1]
    shown.wait("[...document.querySelectorAll('#viewer img')].every((image) => image.complete && image.naturalWidth)")
    shown.press("ArrowDown")
    assert "tom@1 at scale 1" in shown.js("document.querySelector('#viewer').innerText"), "the right one moves"
    shown.press("Escape")
    shown.wait("!viewer.open && document.activeElement.dataset.cell === '0-2-4'")


def test_blind_votes_are_kept_undone_exported_and_read(shown, page):
    shown.js("byId('start').click()")
    assert shown.js("ballot.open")
    said = shown.js('ballot.innerText + ballot.innerHTML.replace(/src="[^"]*"/g, \'\')')
    assert "rex@" not in said
    assert "scale" not in said
    keys = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight"]
    shown.press(*keys, "Backspace", "ArrowRight")
    assert shown.js("votes.length") == 5
    shown.open(page)
    assert shown.js("votes.length") == 5, "the browser keeps them"
    shown.js("byId('start').click()")
    shown.press(*keys)
    assert shown.js("byId('count').textContent") == "8 voted, 0 left", "2 prompts, 2 seeds, 2 scales; tom has no rival"
    shown.press("Escape")
    shown.js("byId('export').click()")
    file = shown.downloads / "pets-votes.json"
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    votes = read_votes(file.read_text(), "pets-votes.json")
    file.unlink()
    assert len({vote.id for vote in votes.votes}) == 8
    assert set(votes.adapters) == {"rex@1", "rex@2", "tom@1"}
    assert {vote.seed for vote in votes.votes} == {1, 2}
    assert [vote.winner for vote in votes.votes] == [
        "left",
        "right",
        "equal",
        "left",
        "right",
        "left",
        "right",
        "equal",
    ]


def test_positions_and_pairs_are_drawn_at_random(shown):
    sides = Counter(json.loads(shown.js(
        "JSON.stringify(Array.from({ length: 200 }, () => { const one = draw(); return one.cells[0]; }))"
    )))  # fmt: skip
    left = Counter(cell.split("-")[1] for cell in sides.elements())
    assert 60 < left["0"] < 140
    assert len(sides) == 16, "each of 8 questions, either way round"


def test_nothing_leaves_the_page_and_nothing_is_complained_about(shown, page):
    shown.js("fetch('https://example.org/').catch(() => { window.refused = true; })")
    shown.wait("window.refused")
    assert {url.partition("?")[0] for url in shown.requests if not url.startswith("blob:")} == {page.resolve().as_uri()}
    others = [one for one in shown.complaints if "example.org" not in json.dumps(one)]
    assert others == []


def test_votes_go_on_where_the_browser_keeps_nothing(shown):
    shown.js("Storage.prototype.setItem = () => { throw new Error('full'); }")
    shown.js("byId('start').click()")
    shown.press("ArrowLeft")
    assert shown.js("votes.length") == 1
    assert "export the votes before you close it" in shown.js("byId('says').textContent")
