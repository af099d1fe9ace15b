"""The tables of docs/quality.md, from what `quality.py` measured: means and intervals over subjects, and what is known.

python benchmarks/quality_report.py          rewrites the tables of the page
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from lorafleet_jobs.evaluate.bootstrap import Interval, interval, paired_difference

RESULTS = Path(__file__).parent / "results" / "quality.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "quality.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
COLUMNS = (
    "toy-ID", "toy-top-1", "toy-mAP", "toy-PF", "toy-PRES", "toy-PRES-class", "toy-PRES-DIV", "toy-DIV", "toy-MEM",
)  # fmt: skip
Values = dict[str, float]
"""A score by subject."""


@dataclass(frozen=True)
class Known:
    """An ordering that the literature leads one to expect: `high` has more of `score` than `low`."""

    base: str
    high: str
    low: str
    score: str
    says: str


EPSILON, EDM = "toy-sdxl", "toy-playground"
KNOWN = [
    *[
        known
        for base in (EPSILON, EDM)
        for known in (
            Known(base, "pivotal", "LoRA", "toy-ID", "pivotal tuning is at least as faithful as LoRA alone"),
            Known(base, "LoRA", "TI", "toy-ID", "LoRA is more faithful than textual inversion"),
            Known(base, "TI", "base", "toy-ID", "textual inversion is more faithful than the base"),
        )
    ],
    Known(EPSILON, "DoRA r2", "LoRA r2", "toy-ID", "DoRA is more faithful than LoRA at rank 2"),
    Known(EPSILON, "DoRA", "LoRA", "toy-ID", "DoRA is more faithful than LoRA at rank 8"),
    Known(EPSILON, "pivotal", "pivotal, prior predict", "toy-PRES", "prior preservation (predict) keeps the class"),
    Known(EPSILON, "pivotal, prior predict", "pivotal", "toy-PRES-DIV", "... and its diversity"),
    Known(EPSILON, "pivotal", "pivotal, prior predict", "toy-ID", "... at a cost in fidelity"),
    Known(EPSILON, "pivotal", "pivotal, prior generate", "toy-PRES", "prior preservation (generate) keeps the class"),
    Known(EPSILON, "pivotal, prior generate", "pivotal", "toy-PRES-DIV", "... and its diversity"),
    Known(EPSILON, "pivotal", "pivotal, prior generate", "toy-ID", "... at a cost in fidelity"),
    Known(EPSILON, "pivotal, long @600", "pivotal, long @100", "toy-MEM", "longer training raises memorisation"),
    Known(EPSILON, "pivotal, long @100", "pivotal, long @600", "toy-PF", "... while prompt fidelity falls"),
    Known(EPSILON, "pivotal, min-SNR 5", "pivotal", "toy-ID", "min-SNR helps on an epsilon base"),
    Known(EDM, "pivotal, min-SNR 5", "pivotal", "toy-ID", "min-SNR helps on an EDM base"),
    Known(EDM, "pivotal", "uniform-grid, unit (diffusers)", "toy-ID", "Karras's levels and weight beat diffusers'"),
    Known(EDM, "pivotal", "lognormal -1.2 1.2, unit", "toy-ID", "weight 1 / c_out^2 beats none, levels alike"),
]


def load() -> dict[tuple[str, str], dict[str, Values]]:
    """Scores by (base, cell), label and subject."""
    found: dict[tuple[str, str], dict[str, Values]] = defaultdict(lambda: defaultdict(dict))
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        for label, value in row["scores"].items():
            if value is not None:
                found[row["base"], row["cell"]][label][row["subject"]] = value
    return found


def shown(found: Interval) -> str:
    """A mean and half its interval's width."""
    if found.low is None or found.high is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} ±{(found.high - found.low) / 2:.3f}"


def table(scores: dict[tuple[str, str], dict[str, Values]], base: str) -> list[str]:
    """One base's cells, the most faithful first."""
    cells = [cell for where, cell in scores if where == base]
    cells.sort(key=lambda cell: -statistics.fmean(scores[base, cell]["toy-ID"].values()))
    lines = ["| " + " | ".join(("cell", "subjects", *COLUMNS)) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for cell in cells:
        values = scores[base, cell]
        entries = [shown(interval(list(values[label].values()))) if values.get(label) else "" for label in COLUMNS]
        lines.append("| " + " | ".join((cell, str(len(values["toy-ID"])), *entries)) + " |")
    return lines


def verdict(known: Known, scores: dict[tuple[str, str], dict[str, Values]]) -> str:
    """A line of the table of what is known."""
    high, low = (scores.get((known.base, cell), {}).get(known.score, {}) for cell in (known.high, known.low))
    both = [subject for subject in high if subject in low]
    if len(both) < 2:
        return f"| {known.base} | {known.says} | {known.score} | | not measured |"
    d = paired_difference([high[s] for s in both], [low[s] for s in both])
    assert d.low is not None
    assert d.high is not None
    said = "**holds**" if d.low > 0 else "does **not** hold" if d.high < 0 else "not shown"
    return f"| {known.base} | {known.says} | {known.score} | {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] | {said} |"


def report() -> str:
    """Both tables of scores and what became of the expectations."""
    scores = load()
    lines = []
    for base in (EPSILON, EDM):
        lines += [f"### {base} (toy base, 32 px)", "", *table(scores, base), ""]
    lines += ["### What is known from the literature", ""]
    lines += ["| base | expectation | score | difference, paired by subject | |", "|---|---|---|---|---|"]
    lines += [verdict(known, scores) for known in KNOWN]
    return "\n".join(lines)


def replaced(page: str) -> str:
    """The page with the tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{report()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
