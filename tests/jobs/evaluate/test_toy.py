"""The toy scores on renders, where the truth is known: real views, look-alikes, copies, other places and classes."""

import random
from dataclasses import replace

import pytest
import torch

from lorafleet.errors import DataError
from lorafleet.toy.judges import load_judge
from lorafleet.toy.render import render
from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.evaluate.looks import embed, look_alikes, made_up_subject, rendered, unit_pictures
from lorafleet_jobs.evaluate.pictures import ArmSamples, SubjectPictures
from lorafleet_jobs.evaluate.toy import ToySuite

NOUNS = ("mug", "mug", "dog", "star")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Made-up subjects, their pictures, and the suite among them."""
    made_up = write_subjects(tmp_path_factory.mktemp("photos"), NOUNS)
    pictures = [made_up_subject(one) for one in made_up]
    return made_up, pictures, ToySuite(pictures)


def as_made(suite, identity, stream, k=2, places=None, noun=None):
    """Renders in place of samples: `k` a prompt, on the prompt's background or on `places`."""
    rng = random.Random(stream)
    asked = places or [prompt.background for prompt in suite.prompts]
    shown = [replace(random_scene(identity, rng), background=place) for place in asked for _ in range(k)]
    pictures = unit_pictures([render(scene) for scene in shown])
    return ArmSamples(suite.prompts, pictures.unflatten(0, (len(asked), k)), rendered(identity, f"{stream}-class", 8))


def copies(suite, pictures):
    return ArmSamples(suite.prompts[:1], pictures[None], None)


def test_real_views_are_the_ceiling(world):
    made_up, pictures, suite = world
    for subject, known in zip(made_up, pictures, strict=True):
        for scores in (suite.of_real(known), suite.of_made(known, as_made(suite, subject.identity, "other views"))):
            assert scores.identity > 0.85
            assert scores.top_1 >= 0.8
            assert scores.mean_average_precision > 0.7


def test_another_identity_of_the_class_is_told_apart(world):
    made_up, pictures, suite = world
    for known, other in ((pictures[0], made_up[1]), (pictures[1], made_up[0])):
        scores = suite.of_made(known, as_made(suite, other.identity, "not this one"))
        assert scores.identity < suite.of_real(known).identity - 0.3
        assert scores.top_1 == 0
        assert scores.prompt == 1.0, "class and background are as asked"


def test_prompt_fidelity_counts_each_attribute(world):
    made_up, pictures, suite = world
    mug, dog = pictures[0], pictures[2]
    scores = suite.of_made(mug, as_made(suite, made_up[0].identity, "pf"))
    assert (scores.prompt_background, scores.prompt_class, scores.prompt) == (1.0, 1.0, 1.0)
    scores = suite.of_made(mug, as_made(suite, made_up[0].identity, "pf", places=["beach"] * 8))
    assert (scores.prompt_background, scores.prompt_class) == (1 / 8, 1.0)
    scores = suite.of_made(dog, as_made(suite, made_up[0].identity, "pf"))
    assert (scores.prompt_background, scores.prompt_class, scores.prompt) == (1.0, 0.0, 0.5)
    assert scores.preserved_class == 0.0


def test_prior_preservation_sees_a_class_that_has_become_the_subject(world):
    made_up, pictures, suite = world
    made = as_made(suite, made_up[0].identity, "prior")
    rng = random.Random("mugs")
    mugs = [render(random_scene(unseen_identity(rng.randrange(1000, 9999), "mug"), rng)) for _ in range(8)]
    drifted = suite.of_made(pictures[0], made)
    kept = suite.of_made(pictures[0], replace(made, of_class=unit_pictures(mugs)))
    assert drifted.preservation > kept.preservation + 0.4
    assert drifted.preserved_diversity < kept.preserved_diversity - 0.3
    assert kept.preserved_class == drifted.preserved_class == 1.0
    assert suite.of_made(pictures[0], replace(made, of_class=None)).preservation is None


def test_copies_are_memorised_and_held_out_views_are_not(world):
    made_up, pictures, suite = world
    fresh = []
    for subject, known in zip(made_up, pictures, strict=True):
        copied = suite.of_made(known, copies(suite, known.training))
        assert copied.memorisation > 0.03
        assert copied.embedding_memorisation > 0
        assert suite.of_made(known, copies(suite, known.held_out)).memorisation < -0.03
        fresh.append(suite.of_made(known, as_made(suite, subject.identity, "third", k=4)).memorisation)
    assert abs(sum(fresh) / len(fresh)) < 0.01, "a third set of real views is as near to the one as to the other"


def test_without_held_out_views_everything_is_left_one_out(world):
    made_up, pictures, _ = world
    bare = [SubjectPictures(one.name, one.noun, one.training, one.training) for one in pictures]
    suite = ToySuite(bare)
    assert suite.notes
    for subject, known in zip(made_up, bare, strict=True):
        assert suite.of_real(known).identity < 0.999, "no picture is compared with itself"
        assert suite.of_real(known).top_1 >= 0.8
        copied = suite.of_made(known, copies(suite, known.training))
        fresh = suite.of_made(known, as_made(suite, subject.identity, "third", k=4))
        assert copied.memorisation > fresh.memorisation + 0.05
    single = SubjectPictures("one", "mug", bare[0].training[:1], bare[0].training[:1])
    assert ToySuite([single]).of_real(single).identity is None


def test_diversity_is_nothing_for_equal_samples(world):
    made_up, pictures, suite = world
    same = suite.of_made(pictures[0], copies(suite, pictures[0].training[:1].repeat(3, 1, 1, 1)))
    assert same.diversity == pytest.approx(0, abs=1e-5)
    assert same.pixel_diversity == pytest.approx(0, abs=1e-6)
    varied = suite.of_made(pictures[0], as_made(suite, made_up[0].identity, "varied"))
    assert varied.pixel_diversity > 0.05


def test_look_alikes_are_nearer_than_strangers_and_always_the_same(world):
    made_up, pictures, suite = world
    own = suite.galleries[pictures[0].name]
    chosen = look_alikes(own, "mug")
    assert [one.name for one in chosen] == [one.name for one in look_alikes(own, "mug")]
    assert len({one.name for one in chosen}) == 5
    assert all(one.identity.noun == "mug" for one in chosen)
    assert [one.identity for one in chosen] != [subject.identity for subject in made_up[:5]]
    judge = load_judge()
    strangers = [embed(judge, rendered(unseen_identity(i, "mug"), f"s{i}", 4)) for i in range(50, 60)]
    near = sum(float((own @ embed(judge, one.gallery(4)).T).mean()) for one in chosen) / 5
    assert near > sum(float((own @ other.T).mean()) for other in strangers) / 10 + 0.2


def test_a_made_up_subjects_three_kinds_of_pictures_are_different(world):
    _, pictures, _ = world
    for known in pictures:
        assert len(known.training) == len(known.held_out)
        for a, b in (
            (known.training, known.gallery),
            (known.training, known.held_out),
            (known.gallery, known.held_out),
        ):
            assert torch.cdist(a.flatten(1), b.flatten(1), p=1).min() > 1


def test_a_class_that_the_judge_has_not_seen_is_refused(world):
    _, pictures, _ = world
    with pytest.raises(DataError, match=r"'vessel'.*knows mug, boat"):
        ToySuite([replace(pictures[0], noun="vessel")])
