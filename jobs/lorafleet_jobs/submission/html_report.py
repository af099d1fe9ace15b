"""A submission as one web page that needs nothing else: pictures, curves and styles are all in the file.

Knows rows, bundles' previews and curves that it is given; refuses to know MLflow. Everything that a user or a traceback
said is escaped, and the page forbids itself scripts and addresses.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lorafleet import __version__
from lorafleet.bundle.bundle import PREVIEW
from lorafleet.bundle.change import REMEDY, UNCHANGED
from lorafleet.home import Home
from lorafleet.util.files import write_whole
from lorafleet_jobs.jobqueue.eta import clock, elapsed
from lorafleet_jobs.jobqueue.job_state import JobRow, State
from lorafleet_jobs.jobqueue.status import Submission

if TYPE_CHECKING:
    from PIL.Image import Image

Curve = Sequence[tuple[int, float]]
"""Step and loss, by step."""
TEMPLATE = "report.html.jinja"
STATES: tuple[State, ...] = ("succeeded", "stopped", "running", "queued", "cancelled", "forgotten", "failed")
PICTURE_SIDE = 640  # pixels; a larger preview is scaled down
CURVE_POINTS = 60
CURVE_WIDTH, CURVE_HEIGHT = 240.0, 48.0


@dataclass(frozen=True)
class JobView:
    """A job as the page shows it."""

    row: JobRow
    label: str
    point: str
    """What the recipe has that other jobs' have not, in a sweep."""
    took: str
    remark: str
    """What an adapter should not go without; most have none."""
    log: str
    """The command that shows its log."""
    picture: str | None
    """A data URI."""
    path: str | None
    """Of the curve, as an SVG path."""
    losses: tuple[float, float] | None
    """At the curve's beginning and end."""


def write_report(home: Home, submission: Submission, curves: Mapping[str, Curve], now: float) -> Path:
    """Writes the page beside the submission's other files, whole or not at all; `curves` are by job id."""
    path = home.report(submission.id)
    write_whole(path, render(home, submission, curves, now).encode())
    return path


def render(home: Home, submission: Submission, curves: Mapping[str, Curve], now: float) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    points = submission.points
    views = [_view(home, submission, job, points[job.id], curves.get(job.id, ())) for job in submission.jobs]
    states = [job.state for job in submission.jobs]
    template = resources.files("lorafleet_jobs.submission").joinpath(TEMPLATE).read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        submission=submission, jobs=views, is_sweep=any(points.values()), states=STATES,
        counts={state: states.count(state) for state in STATES if state in states},
        manifest=_manifest(submission), version=__version__,
        took=clock(max(0.0, max(job.updated for job in submission.jobs) - submission.row.created)),
        made=datetime.fromtimestamp(now, UTC), submitted=datetime.fromtimestamp(submission.row.created, UTC),
        width=CURVE_WIDTH, height=CURVE_HEIGHT,
    )  # fmt: skip


def smooth(curve: Curve) -> list[float]:
    """Means of neighbouring losses, as many as can be told apart."""
    size = max(1, -(-len(curve) // CURVE_POINTS))
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [sum(loss for _, loss in part) / len(part) for part in parts]


def svg_path(losses: Sequence[float]) -> str | None:
    """An SVG path from left to right through losses, the highest at the top; None for fewer than two."""
    if len(losses) < 2:
        return None
    low, high = min(losses), max(losses)
    xs = [i * CURVE_WIDTH / (len(losses) - 1) for i in range(len(losses))]
    ys = [CURVE_HEIGHT * (1 - (loss - low) / ((high - low) or 1.0)) for loss in losses]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def data_uri(path: Path) -> str | None:
    """A picture of moderate size, to be put into a page; None if there is none, or none that can be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width <= PICTURE_SIDE:
                return _embedded("png", path.read_bytes())
            image.thumbnail((PICTURE_SIDE, image.height))
            return _embedded("jpeg", _jpeg(image))
    except (OSError, Image.DecompressionBombError):
        return None


def _view(home: Home, submission: Submission, job: JobRow, point: str, curve: Curve) -> JobView:
    label, took = submission.label(job), elapsed(job, job.updated)
    losses = smooth(curve)
    return JobView(
        row=job, label=label, point=point, took="" if took is None else clock(took),
        remark=f"{UNCHANGED}; {REMEDY}" if job.state == "succeeded" and job.kind == "unchanged" else "",
        log=f"lorafleet logs {submission.id} {job.id}",
        picture=data_uri(home.bundles / job.id / PREVIEW) if job.state == "succeeded" else None,
        path=svg_path(losses), losses=(losses[0], losses[-1]) if losses else None,
    )  # fmt: skip


def _manifest(submission: Submission) -> str:
    """As submitted, but without the address that was notified: it may be a secret."""
    manifest = yaml.safe_load(submission.row.manifest)
    if "notify" not in manifest:
        return submission.row.manifest
    return yaml.safe_dump({**manifest, "notify": "(left out here)"}, sort_keys=False)


def _embedded(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _jpeg(image: Image) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=85)
    return stream.getvalue()
