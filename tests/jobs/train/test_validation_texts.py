"""What the base is asked for beside an adapter's picture, and what stands in validation prompts."""

import re

import pytest
from job_rows import spec

from lorafleet.config import Validation
from lorafleet_jobs.train.previews.validate import picture_names, validation_texts, without_subject


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


@pytest.mark.parametrize(
    ("prompts", "names"),
    [
        ((), ["1 TOK"]),
        (("a photo of TOK {class} on the beach", "{name} in the snow"),
         ["1 TOK on the beach", "2 TOK in the snow"]),
        (("a photo of <rex> dog, 35 mm (f/1.8)",), ["1 TOK 35 mm f 1.8"]),
        (("TOK!", "TOK?", "TOK"), ["1 TOK", "2 TOK", "3 TOK"]),
        (("ein Foto von TOK in München", "犬"), ["1 ein Foto von TOK in Munchen", "2 prompt"]),
        (("TOK " + "very " * 20 + "old",), ["1 TOK" + " very" * 9]),
        (("TOK" + "x" * 90,), ["1 TOK" + "x" * 45]),
        (("../..",), ["1 prompt"]),
    ],
)  # fmt: skip
def test_pictures_are_named_by_their_prompt_and_alike_for_all_subjects(prompts, names):
    for subject, noun in (("rex", "dog"), ("tom", "cat")):
        text = tuple(prompt.replace("rex", subject).replace(" dog", f" {noun}") for prompt in prompts)
        own = spec(subject).with_changes(class_noun=noun, instance_prompt=f"a photo of TOK {noun}")
        assert list(picture_names(own.with_changes(validation=Validation(prompts=text)))) == names
        assert all(re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", name) for name in names), "which MLflow asks for"
