"""An adapter says the licence of the base that it was trained on, and class images of one base never train another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from packs_here import prepared, spec_of
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "platform"))
from base_files import add_toy, other_vae, with_variants

from lorafleet.base_record import licence_front_matter, readme_licence
from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.basefiles.from_folder import add_folder
from lorafleet.bases import find_base
from lorafleet.errors import ManifestError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.intake.prepare import examine
from lorafleet_jobs.train.data import Dataset
from lorafleet_jobs.train.data.prior import Maker
from lorafleet_jobs.train.write_bundle import write_bundle

PLAYGROUND = """---
license: other
license_name: playground-v2dot5-community
---
# A model
"""
GENERATE = {"prior": {"mode": "generate", "count": 1}, "rank": 2}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def bundle_of(base, photos, folder):
    loaded = LoadedBase.load(base)
    spec = spec_of(loaded, photos, rank=2)
    training = prepared(loaded, spec)
    return write_bundle(spec, loaded, training.trainable, Image.new("RGB", (8, 8)), {}, None, folder)


def front_of(bundle):
    text = (bundle.path / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_a_checkpoints_own_licence_and_author_are_on_the_adapter(home, photos, tmp_path):
    base = add_toy(
        "reds", home, **{"modelspec.license": "CC0-1.0", "modelspec.title": "Reds", "modelspec.author": "Ann"}
    )
    bundle = bundle_of(base, photos, tmp_path / "bundle")
    front, text = front_of(bundle)
    assert (bundle.card.licence, front["license"]) == ("CC0-1.0", "cc0-1.0")
    assert "`CC0-1.0`, as the base's weights (Reds by Ann, added from reds.safetensors)." in text
    assert f'from_pretrained("{base.path}")' in text


def test_the_licence_that_is_given_goes_before(home, photos, tmp_path):
    add_toy("reds", home, **{"modelspec.license": "mit"})
    base = add_checkpoint(tmp_path / "reds.safetensors", "again", home, licence="My Own 1.0").base
    bundle = bundle_of(base, photos, tmp_path / "bundle")
    front, _ = front_of(bundle)
    assert bundle.card.licence == "My Own 1.0"
    assert (front["license"], front["license_name"]) == ("other", "my-own-1.0")


def test_a_folders_readme_says_it_and_another_vae_changes_nothing_of_that(home, photos, tmp_path):
    base = with_variants(tmp_path / "base", True, False)
    assert base.licence == "unknown"
    (tmp_path / "base" / "README.md").write_text(PLAYGROUND)
    base = find_base(str(tmp_path / "base"))
    sharp = add_folder(base, "sharp", home, str(other_vae(tmp_path))).base
    for number, one in enumerate((base, sharp)):
        front, text = front_of(bundle_of(one, photos, tmp_path / str(number)))
        assert (front["license"], front["license_name"]) == ("other", "playground-v2dot5-community")
        assert "`playground-v2dot5-community`, as the base's weights" in text
    assert add_folder(base, "mine", home, licence="mit").base.licence == "mit"


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: openrail++\ntags: [x]\n---\n", "openrail++"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [x]\n---\n", ""),
        ("# no front matter\nlicense: mit\n", ""),
        ("---\nlicense: [broken\n---\n", ""),
        ("---\n", ""),
    ],
)
def test_front_matter_is_read_as_it_comes(tmp_path, text, licence):
    assert readme_licence(tmp_path) == ""
    (tmp_path / "README.md").write_text(text)
    assert readme_licence(tmp_path) == licence


def test_a_licence_survives_being_written_and_read(tmp_path):
    for licence in ("apache-2.0", "openrail++", "playground-v2dot5-community", "unknown"):
        (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(licence_front_matter(licence))}---\n")
        assert readme_licence(tmp_path) == licence


def test_class_images_are_kept_by_weights_prediction_vae_and_licence(home, photos, tmp_path):
    """Two bases, of whatever names, share them only if all of these are the same."""
    add_toy("one", home)
    file = tmp_path / "one.safetensors"
    bases = [
        find_base("toy-sdxl"), find_base("toy-playground"), find_base("one", home=home),
        add_checkpoint(file, "v", home, prediction="v").base, add_checkpoint(file, "mit", home, licence="mit").base,
        add_folder(find_base("one", home=home), "sharp", home, str(other_vae(tmp_path))).base,
    ]  # fmt: skip
    same = add_checkpoint(file, "same", home).base
    settings = []
    for base in (*bases, same):
        loaded = LoadedBase.load(base)
        settings.append(Maker.of(spec_of(loaded, photos, **GENERATE), loaded).settings)
    assert all(one != other for i, one in enumerate(settings[:-1]) for other in settings[:i])
    assert settings[-1] == settings[2]


def test_class_images_of_another_base_are_made_again(photos, tmp_path):
    cache, seen = tmp_path / "cache", []
    for name in ("toy-sdxl", "toy-playground"):
        loaded = LoadedBase.load(find_base(name))
        seen.append(Dataset.open(spec_of(loaded, photos, **GENERATE), loaded, cache).batch(0).z)
        assert torch.equal(seen[-1], Dataset.open(spec_of(loaded, photos, **GENERATE), loaded, cache).batch(0).z)
        assert len(list((cache / "prior").glob("*/0000.png"))) == len(seen)


def test_a_folder_of_class_images_that_another_base_made_is_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    loaded = LoadedBase.load(find_base("toy-playground"))
    Dataset.open(spec_of(loaded, photos, **GENERATE), loaded, tmp_path / "cache").batch(0)
    [made] = (path for path in (tmp_path / "cache" / "prior").iterdir() if path.is_dir())
    (tmp_path / "m.yaml").write_text(
        f"name: pets\nrecipe: {{prior: {{mode: images, images: {made}}}}}\n"
        f"subjects: [{{name: rex, images: {photos}, class: dog}}]\n"
    )
    assert examine(tmp_path / "m.yaml", "toy-playground").class_folders[0].images is not None
    with pytest.raises(ManifestError, match=r"were made by the base v2-\w+, and this one is v2-\w+; its licence may"):
        examine(tmp_path / "m.yaml", "toy-sdxl")
