"""JPEG and WebP: the same picture, smaller where asked for, and both say how they were made."""

import io
import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from lorafleet.bases import find_base
from lorafleet_serve.api.encodings import encoded
from lorafleet_serve.api.png import a1111_parameters, provenance
from lorafleet_serve.engine.requests import GeneratedImage, GenerateRequest, with_defaults


@pytest.fixture(scope="module")
def made(playground):
    prompt = 'a photo of a dog — naïve, "red", 犬 🐕\nSteps: 1'
    return playground.submit(GenerateRequest(prompt, 7, steps=2, negative_prompt="blurry", width=64, height=64)).result(
        60
    )


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_how_it_was_made_is_in_the_exif(made, form):
    image = opened(encoded(made, form))
    assert (image.format, image.size, image.mode) == (form.upper(), made.image.size, "RGB")
    inner = image.getexif().get_ifd(ExifTags.IFD.Exif)
    code, text = inner[ExifTags.Base.UserComment][:8], inner[ExifTags.Base.UserComment][8:]
    assert code == b"UNICODE\0"
    assert text.decode("utf-16-be") == a1111_parameters(made.settings)
    assert json.loads(inner[ExifTags.Base.MakerNote]) == json.loads(json.dumps(provenance(made.settings)))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_compression_is_quality(made, form):
    small, large = encoded(made, form, 5), encoded(made, form, 100)
    assert len(small) < len(large)
    wanted = np.asarray(made.image.convert("RGB"), dtype=float)
    worse, better = (np.abs(np.asarray(opened(data), dtype=float) - wanted).mean() for data in (small, large))
    assert better < 6
    assert better < worse / 2
    assert encoded(made, form) == encoded(made, form, 95)


def test_a_prompt_as_long_as_allowed_fits():
    long, base = "🐕" * 2000, find_base("toy-playground")
    request = GenerateRequest(long, 7, negative_prompt=long)
    made = GeneratedImage(Image.new("RGB", (32, 32)), with_defaults(request, base, ("edm-euler",)))
    for form in ("jpeg", "webp"):
        comment = opened(encoded(made, form)).getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment[8:].decode("utf-16-be").startswith(long)
