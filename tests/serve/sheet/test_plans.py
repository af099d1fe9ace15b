"""How many pictures a sheet asks for, that they share the engine's batches, and what may be voted against what."""

from dataclasses import replace
from itertools import combinations

import pytest

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import read_bundle
from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.sheet.candidates import Candidate, Found
from lorafleet_serve.sheet.cells import Sheet, Shot
from lorafleet_serve.sheet.contact import contact_blocks
from lorafleet_serve.sheet.making import run_all

PROMPTS = tuple(
    f"a photo of TOK {{class}} {where}" for where in ("on the beach", "in the snow", "at night", "in the sea")
)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory, tools):
    root, base = tmp_path_factory.mktemp("twelve"), find_base("toy-playground")
    made = [tools["make_bundle"](root, base, f"dog-{i:02d}", rank=2, tokens=1) for i in range(2)]
    candidates = []
    for i in range(12):  # the same two bundles under twelve names: what is counted is what is asked for
        path = made[i % 2].path
        version = replace(version_of(path), name=f"dog-{i:02d}", version=1)
        candidates.append(Candidate(version, read_bundle(path).card))
    return Found(tuple(candidates), ())


def plan(found, scales=(0.6, 1.0), prompts=PROMPTS, seeds=(0,)):
    first = found.candidates[0]
    blocks = contact_blocks(
        found, [None] * len(found.candidates), prompts, seeds, scales, Shot(first, first, "", 0, steps=2)
    )
    return Sheet("twelve", "toy-playground", found, blocks)


def test_twelve_adapters_and_four_prompts_are_148_pictures(twelve):
    sheet = plan(twelve)
    assert len(sheet.cells) == 4 * 12 * 4
    assert len(sheet.requests) == 4 * (12 * 3 + 1), "twelve dogs share the base's picture of a dog"


def test_all_pictures_of_a_sheet_share_the_engine_s_batches(twelve, playground):
    sheet, seen = plan(twelve, prompts=PROMPTS[:1]), []
    engine = StepEngine(playground.model, max_rows=8, max_queue=len(sheet.requests))
    try:
        pictures = run_all(engine, sheet.requests, lambda done, of: seen.append((done, of)))
        steps = engine.stats().steps
    finally:
        engine.close()
    assert pictures.made.keys() == set(sheet.requests)
    assert seen == [(n, 37) for n in range(1, 38)]
    assert steps < 37 * 2 / 3, "alone each picture would take two steps of its own"


def test_votes_are_between_adapters_at_one_prompt_seed_and_scale(twelve):
    sheet = plan(twelve, seeds=(0, 1))
    among = {}
    for cell in sheet.cells:
        if cell.contestant is not None:
            among.setdefault(cell.among, []).append(cell)
    assert len(among) == len(PROMPTS) * 2 * 2
    for cells in among.values():
        assert len({cell.contestant.label for cell in cells}) == 12
        for one, other in combinations(cells, 2):
            assert (one.request.seed, one.request.prompt) == (other.request.seed, other.request.prompt)
            assert one.request.adapters[0].scale == other.request.adapters[0].scale


def test_where_a_name_has_several_versions_they_are_not_voted_against_other_names(twelve):
    rex, tom = twelve.candidates[:2]
    again = replace(rex, adapter=replace(rex.adapter, version=2))
    sheet = plan(Found((rex, again, tom), ()), prompts=PROMPTS[:1])
    groups = {}
    for cell in sheet.cells:
        if cell.contestant is not None:
            groups.setdefault(cell.among, set()).add(cell.contestant.adapter)
    assert {frozenset(group) for group in groups.values()} == {
        frozenset({"dog-00@1", "dog-00@2"}), frozenset({"dog-01@1"}),
    }  # fmt: skip
