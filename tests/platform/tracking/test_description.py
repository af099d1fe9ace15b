"""What a version's page in MLflow says to decide by; scores are written anew, and a person's words stay."""

import uuid

import pytest
from tracked_jobs import bundle_at, job

from lorafleet.bundle.bundle import Trigger
from lorafleet.bundle.ports import Score
from lorafleet.tracking.description import AT_MOST, MARK, described, prompt_of, rescored


@pytest.fixture
def card(tmp_path):
    return bundle_at(tmp_path / "rex").card


def test_a_version_says_picture_prompt_base_and_scores(card):
    text = described(card.with_changes(sha256={"preview.png": "0"}), 3, "f" * 32, {"toy-identity": 0.61234})
    assert text.startswith(f"![base, words only, adapter](get-artifact?path=adapter%2Fpreview.png&run_uuid={'f' * 32})")
    assert 'lorafleet generate "a photo of <rex> dog" --adapter rex@3' in text
    assert "| trigger words | `<rex>` |" in text
    assert "| base | `toy-playground` |" in text
    assert "| learned | LoRA of rank 4 and 2 words, in 12 steps on 5 photos |" in text
    assert "| toy-identity | 0.612 |" in text
    assert text.endswith(MARK)
    assert "get-artifact" not in described(card, 3, "f" * 32, {}), "an adapter without a preview has no picture"


@pytest.mark.parametrize(
    ("instance", "abstractions", "prompt"),
    [
        ("a photo of TOK dog", ("TOK",), "a photo of <rex> dog"),
        ("TOK and TOK2 on a mat", ("TOK", "TOK2"), "<rex> and <rex/TOK2> on a mat"),
        ("", ("TOK",), "<rex>"),
        ("", (), "a photo"),
    ],
)
def test_the_prompt_can_be_typed(card, instance, abstractions, prompt):
    triggers = tuple(
        Trigger(trigger="<rex>" if word == "TOK" else f"<rex/{word}>", abstraction=word) for word in abstractions
    )
    assert prompt_of(card.with_changes(instance_prompt=instance, triggers=triggers)) == prompt


def test_scores_are_written_anew_and_what_a_person_added_stays(card):
    text = described(card, 1, "f" * 32, {}) + "\n\nApproved by Ann."
    assert "`lorafleet evaluate` writes them here" in text
    once = rescored(text, {"dino": 0.5})
    twice = rescored(once, {"dino": 0.7})
    assert "| dino | 0.7 |" in twice
    assert "0.5" not in twice
    assert twice.endswith(f"{MARK}\n\nApproved by Ann.")
    assert twice.count("### Scores") == twice.count("lorafleet generate") == 1
    assert rescored("Do not use: Ann", {"dino": 0.7}) == "Do not use: Ann"


def test_more_scores_than_mlflow_has_room_for_are_cut_between_lines(card):
    text = described(card, 1, "f" * 32, {f"score {n}": 1 / (n + 1) for n in range(500)})
    assert len(text) <= AT_MOST
    assert text.endswith(MARK)
    assert text.splitlines()[-3].startswith("| score 2")


def test_a_score_that_is_written_on_a_version_is_in_its_text(tracking, parent, home):
    name = f"rex-{uuid.uuid4().hex[:8]}"
    child = tracking.start_job(parent, job(name))
    made = tracking.register(bundle_at(home / "bundles" / name, name, "c" * 16), child)

    def text():
        return tracking.client.get_model_version(name, "1").description

    assert f"--adapter {name}@1" in text()
    tracking.log_metrics(child, 12, {"eval/dino": 0.4321, "eval/clip-t": 0.3, "train/loss": 0.1})
    tracking.write_score(name, made.version, Score("dino", 0.4321))
    assert "| dino | 0.432 |" in text()
    assert "| clip-t | 0.3 |" in text()
    assert "train/loss" not in text()
    tracking.client.update_model_version(name, "1", "mine")
    tracking.write_score(name, made.version, Score("dino", 0.5))
    tracking.register(bundle_at(home / "bundles" / name, name, "c" * 16), child)
    assert text() == "mine"
