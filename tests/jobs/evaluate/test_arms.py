"""Arms, their pictures on a real toy base, and a whole evaluation of adapters with random factors."""

import json

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.bundle.adapter import Adapter
from lorafleet.bundle.bundle import Trigger
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Factors
from lorafleet.targets import UNET
from lorafleet.toy.subjects import write_subjects
from lorafleet_jobs.evaluate.arms import Arm, adapter_arm, base_arm, controls, with_article, word_of
from lorafleet_jobs.evaluate.looks import made_up_subject
from lorafleet_jobs.evaluate.pictures import SamplingOptions, picture_seeds
from lorafleet_jobs.evaluate.run import Candidate, another, evaluate
from lorafleet_jobs.evaluate.sampler import ROWS, sample_arm
from lorafleet_jobs.evaluate.show import as_json, tables
from lorafleet_jobs.evaluate.toy import ToySuite

TEMPLATE = "a photo of {subject} at night"
CLOSE = 1e-4  # of a picture in [0, 1]; another seed's differs by tenths


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(find_base("toy-sdxl"))


def random_adapter(warm, name, seed, tokens=2):
    """Factors of rank 2 on every attention projection, strong enough to be seen; learned tokens unless 0."""
    draws = torch.Generator().manual_seed(seed)
    layers = {
        layer: Factors(torch.randn(2, n_in, generator=draws) * 0.1, torch.randn(n_out, 2, generator=draws) * 0.2)
        for layer, (n_in, n_out) in warm.lora[UNET].linear.items()
        if layer.endswith(("to_q", "to_v"))
    }
    vectors = tuple(torch.randn(tokens, w, generator=draws) * 0.5 for w in warm.prompts.widths) if tokens else None
    trigger = Trigger(trigger=f"<{name}>", abstraction="TOK", tokens=tuple(range(tokens)), text="" if tokens else "TOK")
    return Adapter(name, {UNET: layers}, vectors, (trigger,), "", "")


def test_arms_say_their_prompts(warm):
    cup, jug = random_adapter(warm, "cup", 1), random_adapter(warm, "jug", 2)
    texts = {arm.name: arm.text(TEMPLATE) for arm in controls(cup, "mug", "boat", jug)}
    assert texts == {
        "base": "a photo of a mug at night",
        "scale 0": "a photo of a mug at night",
        "tokens only": "a photo of TOK mug at night",
        "wrong class word": "a photo of TOK boat at night",
        "another's adapter": "a photo of TOK mug at night",
        "shuffled trigger": "a photo of TOK mug at night",
    }
    by_name = {arm.name: arm for arm in controls(cup, "mug", "boat", jug)}
    assert by_name["another's adapter"].adapter is jug
    shuffled = by_name["shuffled trigger"].adapter
    assert shuffled.parts is cup.parts
    assert shuffled.vectors is jug.vectors


def test_without_another_subject_or_learned_tokens_controls_make_do(warm):
    cup, plain = random_adapter(warm, "cup", 1), random_adapter(warm, "cup", 1, tokens=0)
    alone = {arm.name: arm for arm in controls(cup, "mug", "boat", None)}
    assert "another's adapter" not in alone
    assert alone["shuffled trigger"].adapter.vectors is None
    assert alone["shuffled trigger"].adapter.trigger_table() == {}
    without_tokens = {arm.name: arm for arm in controls(plain, "mug", "boat", None)}
    assert "tokens only" not in without_tokens
    assert without_tokens["shuffled trigger"].text(TEMPLATE) == "a photo of QIX mug at night"


def test_words(warm):
    two = (
        Trigger(trigger="<x>", abstraction="TOK", tokens=(0,)),
        Trigger(trigger="<x/TOK2>", abstraction="TOK2", tokens=(1,)),
    )
    adapter = Adapter("x", {}, None, two, "")
    assert word_of(adapter, "a photo of TOK TOK2 dog") == "TOK TOK2"
    assert word_of(adapter, "a dog") == "TOK"
    assert (with_article("mug"), with_article("orange")) == ("a mug", "an orange")


def test_a_picture_depends_on_its_prompt_and_seed_alone(warm):
    arm = adapter_arm(random_adapter(warm, "cup", 1), "mug")
    templates = [TEMPLATE, "a photo of {subject} in the snow", TEMPLATE]
    three = sample_arm(warm, arm, templates, [5, 6, 7], steps=2)
    assert three.shape == (3, 3, 32, 32)
    assert 0 <= three.min() < three.max() <= 1
    torch.testing.assert_close(sample_arm(warm, arm, templates[1:2], [6], steps=2), three[1:2], rtol=0, atol=CLOSE)
    many = sample_arm(warm, arm, [TEMPLATE] * ROWS + templates, [*range(20, 20 + ROWS), 5, 6, 7], steps=2)
    torch.testing.assert_close(many[ROWS:], three, rtol=0, atol=CLOSE)
    again = sample_arm(warm, arm, [TEMPLATE] * ROWS + templates, [*range(20, 20 + ROWS), 5, 6, 7], steps=2)
    assert torch.equal(again, many)
    assert not torch.equal(three[0], three[2]), "another seed"
    assert sample_arm(warm, arm, [], [], steps=2).shape == (0, 3, 32, 32)


def test_the_adapter_its_tokens_and_its_scale_reach_the_picture_and_nothing_stays_behind(warm):
    cup = random_adapter(warm, "cup", 1)
    arms = [
        base_arm("mug"),
        adapter_arm(cup, "mug"),
        Arm("half", cup, 0.5, "TOK", "mug"),
        Arm("t", cup, 0.0, "TOK", "mug"),
    ]
    made = [sample_arm(warm, arm, [TEMPLATE], [1], steps=2) for arm in arms]
    assert all(not torch.equal(a, b) for i, a in enumerate(made) for b in made[:i])
    assert torch.equal(sample_arm(warm, arms[0], [TEMPLATE], [1], steps=2), made[0])
    assert torch.equal(sample_arm(warm, Arm("zero", cup, 0.0, "", "mug"), [TEMPLATE], [1], steps=2), made[0])


def test_seeds_belong_to_a_subject(warm):
    assert picture_seeds(0, "cup", 3) == picture_seeds(0, "cup", 5)[:3]
    assert picture_seeds(0, "cup", 3) != picture_seeds(0, "jug", 3) != picture_seeds(1, "jug", 3)


@pytest.fixture(scope="module")
def evaluation(warm, tmp_path_factory):
    subjects = write_subjects(tmp_path_factory.mktemp("photos"), ("mug", "mug"), pictures=4)
    pictures = [made_up_subject(subject, views=4) for subject in subjects]
    candidates = [Candidate(f"{one.name}@1", random_adapter(warm, one.name, i), one) for i, one in enumerate(pictures)]
    seen = []
    how = SamplingOptions(samples=2, of_class=2, steps=2)
    found = evaluate(warm, candidates, ToySuite(pictures), how, lambda *at: seen.append(at))
    return found, candidates, seen


def test_every_candidate_has_every_arm_and_scale_0_is_the_base(evaluation):
    found, candidates, seen = evaluation
    arms = [
        "real pictures",
        "adapter",
        "base",
        "scale 0",
        "tokens only",
        "wrong class word",
        "another's adapter",
        "shuffled trigger",
    ]
    assert found.arms == arms
    assert [(row.candidate, row.arm) for row in found.rows] == [(c.label, arm) for c in candidates for arm in arms]
    assert len(seen) == len(candidates) * (len(arms) - 1)
    assert found.zero_is_base
    columns = {column.label: column for column in found.columns}
    assert found.difference("scale 0", "base", columns["toy-ID"]).high == 0
    assert found.difference("adapter", "base", columns["toy-ID"]).mean != 0
    assert found.interval("real pictures", columns["toy-ID"]).mean > 0.8
    assert found.interval("real pictures", columns["toy-PF"]) is None


def test_two_adapters_of_one_subject_are_one_subject(evaluation):
    found, candidates, _ = evaluation
    column = found.columns[0]
    assert found.interval("adapter", column).subjects == 2
    again = candidates[0]
    assert another(again, [again, Candidate("again", again.adapter, again.subject)]) is None
    assert another(again, candidates) is candidates[1]


def test_the_document_and_the_tables_say_toy_and_never_dino_or_clip(evaluation):
    found, _, _ = evaluation
    document = as_json(found)
    text = json.dumps(document, allow_nan=False)
    assert document["title"] == "toy base, 32 px"
    assert document["scale_0_is_base"] is True
    assert document["arms"]["adapter"]["toy-ID"]["subjects"] == 2
    assert document["adapter_minus"]["base"]["toy-top-1"].keys() == {"mean", "low", "high", "subjects"}
    assert all(name["name"].startswith("toy-") for name in document["scores"])
    assert not any(word in text for word in ("DINO", "CLIP"))
    assert all(table.title.startswith("toy base, 32 px") for table in tables(found))
