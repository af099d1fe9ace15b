"""The report of a submission: complete, contained in one file, and deaf to whatever names and errors say."""

import dataclasses
import html.parser

import pytest
from PIL import Image

from lorafleet.bundle.bundle import PREVIEW
from lorafleet.config import Recipe, Resources, Validation
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import Submission
from lorafleet_jobs.jobqueue.tables import SubmissionRow
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.submission.html_report import (
    CURVE_POINTS,
    PICTURE_SIDE,
    data_uri,
    smooth,
    svg_path,
    write_report,
)

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
MANIFEST = "name: pets\nnotify:\n  url: https://hooks.example/s3cret\nremark: '</pre><script>'\n"
ROW = SubmissionRow(
    "pets-01", "pets", "toy-playground", MANIFEST, 2, Resources(lanes=2, pack=4), run_id="ab12", created=1e9
)


def job(number: int, name: str = "dog", rank: int = 4, **values) -> JobRow:
    spec = JobSpec(
        id=f"{number:016x}", submission="pets-01", subject=name, adapter=name, base="toy-playground", folder="/p",
        images=(), class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(rank=rank), steps=200,
        validation=Validation(), dataset_fingerprint="f",
    )  # fmt: skip
    known = {"steps": 200, "started": 1e9, "updated": 1e9 + 90, "attempts": 1, **values}
    return JobRow("pets-01", spec.id, number, spec, **known)


class Page(html.parser.HTMLParser):
    """Every element with its attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.said, self._open = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self._open:
            self.said.append(data)


def page(home, jobs, curves=None) -> tuple[Page, str]:
    text = write_report(home, Submission(ROW, tuple(jobs)), curves or {}, 1e9 + 100).read_text()
    return Page(text), text


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def preview(home, row: JobRow, size=(392, 128)) -> None:
    folder = home.bundles / row.id
    folder.mkdir(parents=True)
    Image.new("RGB", size, "teal").save(folder / PREVIEW)


def test_it_tells_how_every_job_ended_and_why(home):
    made = job(0, "cup", state="succeeded", version=3, step=200)
    preview(home, made)
    curve = [(step, 1.0 / step) for step in range(1, 201)]
    found, _ = page(home, [
        made, job(1, "jug", state="failed", kind="data", error="D002: no picture", attempts=2),
        job(2, "mug", state="stopped", step=50, error="stopped at step 50 of 200"),
    ], {made.id: curve})  # fmt: skip
    for said in (
        "cup", "version 3", "200 steps in 1:30", "data", "D002: no picture", "attempt 2, step 0 of 200", "2 × 4",
        "ab12", f"lorafleet logs pets-01 {1:016x}", "stopped at step 50 of 200", "1 succeeded", "1:30",
    ):  # fmt: skip
        assert said in found.text, said
    pictures = [attributes["src"] for tag, attributes in found.elements if tag == "img"]
    assert [picture[:22] for picture in pictures] == ["data:image/png;base64,"]
    assert sum(tag == "svg" for tag, _ in found.elements) == 2, "in the card and in the table"


def test_names_and_errors_are_text_whatever_they_say(home):
    bad = dataclasses.replace(ROW, name=EVIL, base=EVIL)
    evil = job(0, EVIL, state="failed", kind="defect", error=EVIL)
    text = write_report(home, Submission(bad, (evil,)), {}, 1e9).read_text()
    found = Page(text)
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "img", "iframe", "link", "object", "a", "form"})
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "49" not in found.text, "nor is it a template"
    assert found.text.count("<script>alert(1)</script>") >= 4


def test_nothing_is_fetched_and_no_script_may_run(home):
    made = job(0, state="succeeded", version=1)
    preview(home, made)
    found, text = page(home, [made])
    policy = next(a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    addresses = [a[key] for _, a in found.elements for key in ("src", "href", "srcset") if key in a]
    assert all(address.startswith("data:") for address in addresses)
    assert "url(" not in text
    assert "@import" not in text


def test_the_address_that_is_notified_is_left_out(home):
    found, text = page(home, [job(0)])
    assert "s3cret" not in text
    assert "notify: (left out here)" in found.text


def test_a_submission_that_never_began_has_a_page_too(home):
    found, _ = page(home, [job(0, state="cancelled", error="cancelled", attempts=0, started=None)])
    assert "1 cancelled" in found.text
    assert found.text.count("cancelled") == 4, "title, headline, count, the job's state; not its reason too"


def test_a_sweep_says_what_tells_its_points_apart(home):
    jobs = [job(0, rank=4), job(1, rank=8), job(2, "cat", rank=4), job(3, "cat", rank=8)]
    found, _ = page(home, jobs)
    assert "Point" in found.text
    assert found.text.count("dog rank 8") >= 1
    found, _ = page(home, [job(0, rank=4), job(1, "cat", rank=8)])
    assert "Point" not in found.text


def test_a_large_preview_is_scaled_down_and_a_broken_one_left_out(home, tmp_path):
    noise = Image.effect_noise((3080, 1024), 90).convert("RGB")
    noise.save(tmp_path / "large.png")
    uri = data_uri(tmp_path / "large.png")
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 0.1 * (tmp_path / "large.png").stat().st_size
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert data_uri(tmp_path / "broken.png") is None
    assert data_uri(tmp_path / "none.png") is None
    assert PICTURE_SIDE < 3080


def test_curves_are_short_and_stay_in_their_box():
    assert smooth([]) == []
    assert smooth([(1, 0.5)]) == [0.5]
    assert len(smooth([(step, 1.0) for step in range(10_000)])) <= CURVE_POINTS
    assert smooth([(step, float(step)) for step in range(120)])[:2] == [0.5, 2.5]
    assert svg_path([0.5]) is None
    assert svg_path([1.0, 0.0, 0.5]) == "M0.0 0.0L120.0 48.0L240.0 24.0"
    assert svg_path([1.0, 1.0]) == "M0.0 48.0L240.0 48.0", "a flat line lies at the bottom"


def test_writing_again_replaces_the_page_and_leaves_nothing_beside_it(home):
    page(home, [job(0)])
    found, _ = page(home, [job(0, state="succeeded", version=1)])
    assert "1 succeeded" in found.text
    assert [path.name for path in home.report("pets-01").parent.iterdir()] == ["report.html"]


def test_the_loss_is_that_of_status(tmp_path):
    """The curve is smoothed; the number beside it is the one that `status` and `watch` show."""
    row = job(1, state="succeeded", loss=0.3421)
    text = write_report(
        Home(tmp_path), Submission(ROW, (row,)), {row.id: [(n, 1.0) for n in range(90)]}, 1e9
    ).read_text()
    assert "loss 0.3421</div>" in text


def test_an_adapter_that_learned_nothing_visible_is_marked(tmp_path):
    rows = (job(1, "cat", state="succeeded", version=1, kind="unchanged"), job(2, state="succeeded", version=1))
    text = Page(write_report(Home(tmp_path), Submission(ROW, rows), {}, 2e9).read_text()).text
    assert text.count("unchanged : its pictures are as before training") == 2, "on its card and in its line"
