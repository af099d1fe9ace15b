"""What scores come to for a person: a word for each aspect, one adapter to keep a subject, and why."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lorafleet_jobs.evaluate.real import RealScores
from lorafleet_jobs.evaluate.run import Evaluation, ScoredRow
from lorafleet_jobs.evaluate.show import as_json, verdict_table
from lorafleet_jobs.evaluate.suite import ASPECTS
from lorafleet_jobs.evaluate.toy import ToyScores
from lorafleet_jobs.evaluate.verdict import recommendations, verdicts, word_for

BASE_HAS = "likeness 0.41, and the base has 0.40 without it"
ORDER = {
    "fidelity": ("none", "some", "close"),
    "drift": ("little", "some", "much"),
    "prompt": ("lost", "partly", "kept"),
}


def evaluation(**adapters) -> Evaluation:
    """One subject, rex, unless a name says another; the base has likeness 0.4 and real pictures 0.7."""
    rows = []
    for label, (identity, prompt, drift, memorised) in adapters.items():
        name, subject = label.replace("_", "@"), label.partition("_")[0]
        made = ToyScores(identity=identity, prompt=prompt, preservation=drift, memorisation=memorised)
        base = ToyScores(identity=0.4, prompt=1.0, preservation=0.4, memorisation=-0.2)
        rows += [
            ScoredRow(name, subject, "real pictures", ToyScores(identity=0.7)),
            ScoredRow(name, subject, "adapter", made),
            ScoredRow(name, subject, "base", base),
        ]
    return Evaluation("toy base, 32 px", (), ToyScores.columns(), tuple(rows), True, 0)


def said(**adapters) -> list[str]:
    return recommendations(verdicts(evaluation(**adapters)))


def test_the_better_of_two_is_kept_and_a_word_stands_for_each_score():
    both = evaluation(rex_2=(0.58, 0.95, 0.45, -0.1), rex_3=(0.61, 0.8, 0.42, -0.1))
    one, two = verdicts(both)
    assert [one.readings[aspect].word for aspect in ASPECTS] == ["close", "kept", "some", "no"]
    assert [two.readings[aspect].word for aspect in ASPECTS] == ["close", "partly", "little", "no"]
    assert recommendations([one, two]) == ["rex@3: keep; likeness 0.61 against 0.58 for rex@2"]
    assert as_json(both)["verdict"]["recommendations"] == recommendations([one, two])


@pytest.mark.parametrize(
    ("adapters", "sentences"),
    [
        ({"rex_1": (0.6, 1, 0.4, -0.1)}, ["rex@1: keep; likeness 0.60 against 0.40 for the base"]),
        ({"rex_1": (0.41, 1, 0.4, -0.1)},
         ["rex@1: train again with more steps or a higher learning_rate; " + BASE_HAS]),
        ({"rex_1": (0.6, 0.3, 0.4, -0.1)},
         ["rex@1: train again with fewer steps or a lower rank; likeness 0.60, but it ignores prompts"]),
        ({"rex_1": (0.69, 1, 0.4, 0.1), "rex_2": (0.6, 1, 0.4, -0.1)},
         ["rex@2: keep; likeness 0.60 against 0.69 for rex@1, which copies its training pictures"]),
        ({"rex_1": (0.6, 1, 0.4, -0.1), "tom_1": (0.5, 1, 0.4, -0.1)},
         ["rex@1: keep; likeness 0.60 against 0.40 for the base",
          "tom@1: keep; likeness 0.50 against 0.40 for the base"]),
        ({"rex_1": (None, 1, 0.4, -0.1)}, ["rex@1: look at its pictures; there is no score of its likeness"]),
    ],
)  # fmt: skip
def test_each_subject_gets_one_recommendation_and_its_reason(adapters, sentences):
    assert said(**adapters) == sentences


unit = st.floats(0, 1)


@given(st.sampled_from(sorted(ORDER)), unit, unit, unit, st.none() | unit)
def test_a_greater_score_never_gets_a_smaller_word(aspect, one, two, base, real):
    less, more = (ORDER[aspect].index(word_for(aspect, value, base, real)) for value in sorted((one, two)))
    assert less <= more


@given(st.lists(st.tuples(st.none() | unit, unit, unit, st.floats(-1, 1)), min_size=1, max_size=4))
def test_there_is_one_sentence_for_one_subject_and_it_names_one_of_its_adapters(scores):
    adapters = {f"rex_{i}": each for i, each in enumerate(scores)}
    (sentence,) = said(**adapters)
    assert sentence.partition(":")[0] in {name.replace("_", "@") for name in adapters}
    assert ("keep" in sentence) <= any(one.worst is None for one in verdicts(evaluation(**adapters)))


def test_the_table_fits_a_terminal_and_says_words_before_figures():
    console = Console(width=80, file=io.StringIO())
    console.print(verdict_table(verdicts(evaluation(rex_3=(0.61, 0.8, 0.42, -0.1))), "toy base"))
    lines = console.file.getvalue().splitlines()
    assert lines[1].split() == ["adapter", "fidelity", "prompt", "drift", "memorised?"]
    assert lines[2].split() == ["rex@3", "close", "0.61", "partly", "0.80", "little", "0.42", "no", "-0.10"]


@pytest.mark.parametrize("scores", [ToyScores, RealScores])
def test_every_suite_has_one_score_for_each_aspect(scores):
    assert sorted(column.aspect for column in scores.columns() if column.aspect) == sorted(ASPECTS)
