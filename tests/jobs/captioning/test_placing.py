"""The subject is named once, wherever the captioner said it; nothing else of what was said changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet_jobs.captioning.placing import placed
from lorafleet_jobs.captioning.writing import caption_file

PROMPT = "a photo of TOK dog"


@pytest.mark.parametrize(
    ("said", "noun", "prompt", "caption"),
    [
        ("a Dog on a sofa", "dog", PROMPT, "a TOK dog on a sofa"),
        ("two dogs on a sofa", "dog", PROMPT, f"{PROMPT}, two dogs on a sofa"),
        ("a dog beside a dog", "dog", PROMPT, f"{PROMPT}, a dog beside a dog"),
        ("a hotdog", "dog", PROMPT, f"{PROMPT}, a hotdog"),
        ("grass, dog, outdoors", "dog", PROMPT, "grass, TOK dog, outdoors"),
        ("a teddy bear", "teddy bear", "TOK teddy bear", "a TOK teddy bear"),
        ("a dog", "dog", "a photo of sks dog", "a photo of sks dog, a dog"),
        ("a cat", None, "a photo of TOK", "a photo of TOK, a cat"),
        (" a\ncat\t ,", None, "TOK", "TOK, a cat"),
        ("a\x1b[2Jcat", None, "TOK", "TOK, a [2Jcat"),
        ("", "dog", PROMPT, PROMPT),
        ("c++", "c++", "TOK c++", "TOK c++, c++"),
    ],
)
def test_where_the_subject_is_named(said, noun, prompt, caption) -> None:
    assert placed(said, noun, prompt) == caption


@given(st.text(max_size=60), st.sampled_from(["dog", "teddy bear", None]))
def test_the_word_is_there_once_and_on_one_line(said, noun) -> None:
    caption = placed(said.replace("TOK", ""), noun, PROMPT)
    assert caption.count("TOK") == 1
    assert caption == " ".join(caption.split())
    assert caption.isprintable()


def test_a_captions_file_is_its_images_alone() -> None:
    images = ["a.jpg", "a.PNG", "b.jpg", "c.d.jpg"]
    assert [caption_file(image, images) for image in images] == ["a.jpg.txt", "a.PNG.txt", "b.txt", "c.d.txt"]
