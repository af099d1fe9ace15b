"""Captioners by name: lorafleet's own, those that packages bring, and what is said where there is none."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from lorafleet.errors import CaptionerError
from lorafleet_jobs.captioning.captioner import OWN, find_captioner
from lorafleet_jobs.captioning.local_weights import local_weights


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A Hugging Face cache in which nothing lies, whatever this machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of a module `loud_words` that brings a captioner under a name."""

    def install(name: str, body: str) -> None:
        site = tmp_path / "site"
        (site / "loud-1.dist-info").mkdir(parents=True)
        (site / "loud-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
        (site / "loud-1.dist-info" / "entry_points.txt").write_text(
            f"[lorafleet.captioners]\n{name} = loud_words:load\n"
        )
        (site / "loud_words.py").write_text(body)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "loud_words", raising=False)

    return install


LOUD = """
class Loud:
    def __init__(self, model):
        self.model = model
    def caption(self, images):
        return [f"A PICTURE OF {i.width} BY {i.height}" for i in images]
def load(model):
    return Loud(model)
"""


def test_a_package_brings_one_which_goes_before_the_others(package) -> None:
    package("loud", LOUD)
    found = find_captioner()
    assert found.name == "loud"
    assert list(found.captioner.caption([Image.new("RGB", (3, 4))])) == ["A PICTURE OF 3 BY 4"]
    assert find_captioner("loud", "some/weights").captioner.model == "some/weights"


def test_a_package_may_bring_another_blip(package) -> None:
    package("blip", LOUD)
    assert find_captioner("blip").captioner.caption([Image.new("RGB", (1, 1))]) == ["A PICTURE OF 1 BY 1"]


def test_a_package_that_is_broken_is_told(package) -> None:
    package("loud", "import nothing_of_this_name")
    with pytest.raises(
        CaptionerError, match=r"'loud' cannot be loaded from loud_words:load: No module named .*reinstall"
    ):
        find_captioner("loud")


def test_where_none_is_ready_each_says_what_it_lacks() -> None:
    with pytest.raises(CaptionerError) as refused:
        find_captioner()
    said = str(refused.value)
    assert said.startswith("no captioner is ready on this machine, and none is downloaded by itself. florence-2: its")
    for hub_id in ("florence-community/Florence-2-large", "Salesforce/blip-image-captioning-large", "SmilingWolf/wd-"):
        assert f"hf download {hub_id}" in said
    assert said.endswith("take --captioner toy")
    assert "\n" not in said


def test_a_name_that_is_none() -> None:
    with pytest.raises(CaptionerError, match=r"no captioner is called 'bllip'; did you mean 'blip'\?"):
        find_captioner("bllip")
    with pytest.raises(CaptionerError, match=f"there are {', '.join(OWN)}"):
        find_captioner("zzz")
    with pytest.raises(CaptionerError, match="add --captioner: florence-2, blip"):
        find_captioner(None, "weights")
    with pytest.raises(CaptionerError, match="leave --model out"):
        find_captioner("toy", "weights")


def test_weights_in_a_folder_or_in_the_cache(tmp_path: Path) -> None:
    files = ("config.json", "*.safetensors")
    with pytest.raises(CaptionerError, match="'a/b' is no folder and not in the local cache; run: hf download a/b"):
        local_weights("a/b", (), files)
    with pytest.raises(CaptionerError, match="neither a folder nor a hub id"):
        local_weights("a/b/c/d", (), files)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CaptionerError, match=r"mine has no \*\.safetensors; give the folder of a whole model"):
        local_weights(str(folder), (), files)
    (folder / "model.safetensors").touch()
    assert local_weights(str(folder), (), files) == folder
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).touch()
    assert local_weights(None, ("x/y", "a/b"), files) == snapshot
