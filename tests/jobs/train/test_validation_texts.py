"""What the base is asked for beside an adapter's picture, and what stands in validation prompts."""

import pytest
from job_rows import spec

from lorafleet.config import Validation
from lorafleet_jobs.train.previews.validate import validation_texts, without_subject


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("a photo of TOK dog", "a photo of a dog"),
        ("a photo of TOK", "a photo of a dog"),
        ("a photo of TOK on the beach", "a photo of a dog on the beach"),
        ("TOK dog in a bucket", "dog in a bucket"),
        ("my TOK on the beach", "my dog on the beach"),
        ("a photo of the TOK dog", "a photo of the dog"),
        ("TOK, in the snow", "a dog, in the snow"),
        ("<rex> and TOK2 dog", "a dog and dog"),
        ("a photo of <rex/TOK2>", "a photo of a dog"),
        ("a photo of a cat", "a photo of a cat"),
        ("STOKED dog", "STOKED dog"),
    ],
)
def test_the_base_is_asked_for_any_of_the_class(text, asked):
    assert without_subject(spec("rex").with_changes(adapter="rex", class_noun="dog"), text) == asked


def test_an_article_before_a_vowel():
    assert (
        without_subject(spec("rex").with_changes(class_noun="armchair"), "a photo of TOK") == "a photo of an armchair"
    )
    assert (
        without_subject(spec("rex").with_changes(class_noun="armchair"), "a photo of TOK armchair")
        == "a photo of an armchair"
    )


def test_class_and_name_in_a_prompt_are_the_subject_s():
    own = spec("rex").with_changes(validation=Validation(prompts=("TOK {class}, {name} {x}", "no braces")))
    assert validation_texts(own) == ("TOK dog, rex {x}", "no braces")
