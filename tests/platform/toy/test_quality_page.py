"""docs/quality.md says what the committed results say, and every expectation has a verdict."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def report():
    spec = importlib.util.spec_from_file_location("quality_report", ROOT / "benchmarks" / "quality_report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results():
    page = (ROOT / "docs" / "quality.md").read_text()
    assert report().replaced(page) == page, "run python benchmarks/quality_report.py"


def test_every_cell_has_all_twenty_subjects_and_every_expectation_a_verdict():
    scores = report().load()
    assert {cell: len(values["toy-ID"]) for cell, values in scores.items()} == dict.fromkeys(scores, 20)
    assert "not measured" not in (ROOT / "docs" / "quality.md").read_text()


def test_what_the_literature_agrees_on_is_not_contradicted():
    """pivotal >= LoRA > TI > base, prior preservation, memorisation: no interval lies on the wrong side.

    Of DoRA against LoRA the literature has no such agreement; the page says what came out.
    """
    module = report()
    scores = module.load()
    verdicts = {known.says: module.verdict(known, scores) for known in module.KNOWN}
    words = ("at least", "faithful than textual", "faithful than the base", "keeps", "raises memorisation")
    agreed = [says for says in verdicts if any(word in says for word in words)]
    assert len(agreed) == 6
    assert [says for says in agreed if "does **not** hold" in verdicts[says]] == []
    assert "**holds**" in verdicts["textual inversion is more faithful than the base"]
