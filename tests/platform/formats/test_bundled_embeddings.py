"""Learned tokens that come with a file of another program become the adapter's own, or are refused by name."""

import pytest
import torch
from lora_files import BASE, assert_same, imported, own, pairs, written
from safetensors.torch import load_file

from lorafleet.bundle.bundle import EMBEDDINGS
from lorafleet.errors import BundleError
from lorafleet.formats.export import kohya_tensors
from lorafleet.loaded import LoadedBase


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


def embedding(warm, seed, rows=2):
    draws = torch.Generator().manual_seed(seed)
    one, two = (torch.randn(rows, width, generator=draws) for width in warm.prompts.widths)
    return {"clip_l": one, "clip_g": two}


def test_onetrainers_bundled_embeddings_are_learned_tokens(warm, tmp_path):
    dog, cat = embedding(warm, 1), embedding(warm, 2, rows=3)
    bundled = {f"bundle_emb.my dog.v2.{key}": t for key, t in dog.items()}
    bundled |= {f"bundle_emb.cat.{key}": t for key, t in cat.items()}
    tensors = kohya_tensors(pairs(warm), 0.5)
    deltas, bundle = own(written(tmp_path, tensors | bundled), warm, tmp_path)
    expected, _ = own(written(tmp_path / "plain", tensors), warm, tmp_path / "plain")
    assert_same(deltas, expected)
    assert [(one.trigger, one.abstraction, one.tokens) for one in bundle.card.triggers] == [
        ("<style>", "TOK", (0, 1, 2)), ("<style/TOK2>", "TOK2", (3, 4)),
    ]  # fmt: skip
    found = load_file(bundle.path / EMBEDDINGS)
    assert all(torch.equal(found[key], torch.cat([cat[key], dog[key]])) for key in found)
    assert bundle.card.notes == (
        "the embedding 'cat' is <style> in a prompt", "the embedding 'my dog.v2' is <style/TOK2> in a prompt",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "more", "says"),
    [
        (("clip_l_out", "clip_l", "clip_g"), {}, r"dog\.clip_l_out' is added behind the text encoder"),
        (("clip_l",), {}, r"embedding 'dog' bundled with it is \{'clip_l': \[2, 48\]\}; SDXL takes"),
        (("clip_l", "clip_g"), {"words": "a dog"}, r"brings its own embeddings \('dog'\); leave --words out"),
    ],
)
def test_bundled_embeddings_that_cannot_be_meant(warm, tmp_path, keys, more, says):
    values = embedding(warm, 1) | {"clip_l_out": torch.ones(2, 48)}
    bundled = {f"bundle_emb.dog.{key}": values[key] for key in keys}
    file = written(tmp_path, kohya_tensors(pairs(warm), 0.5) | bundled)
    with pytest.raises(BundleError, match=says):
        imported(file, tmp_path, **more)


def test_embeddings_of_replicates_trainer(warm, tmp_path):
    values = embedding(warm, 3)
    token = {"text_encoders_0": values["clip_l"], "text_encoders_1": values["clip_g"]}
    file = written(tmp_path, token, name="embeddings.pti")
    _, bundle = own(written(tmp_path, pairs(warm)), warm, tmp_path, embeddings=file)
    found = load_file(bundle.path / EMBEDDINGS)
    assert all(torch.equal(found[key], values[key]) for key in values)
    both = written(tmp_path, token | {"clip_l": torch.ones(2, 48)}, name="both.pti")
    with pytest.raises(BundleError, match="give a textual inversion for SDXL"):
        imported(written(tmp_path, pairs(warm)), tmp_path, embeddings=both)
