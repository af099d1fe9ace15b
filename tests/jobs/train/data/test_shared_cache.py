"""What jobs share on disk: latents and class images, made once, by whichever process comes first, and never trusted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorafleet.basefiles.from_folder import add_folder
from lorafleet.bases import Base, find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.errors import DataError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.data import Dataset
from lorafleet_jobs.train.data.latents import cached_of
from lorafleet_jobs.train.data.prior import CARD, Maker

sys.path.append(str(Path(__file__).parents[3] / "platform"))
from base_files import other_vae

GENERATE = {"mode": "generate", "count": 2}


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


def job(folder, **recipe):
    folder.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize((48, 64)).convert("RGB").save(folder / "a.png")
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base="toy-sdxl", folder=str(folder),
        images=(ImageSpec(file="a.png", caption=None, sha256=sha256_of(folder / "a.png")),), class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe=Recipe(**recipe), steps=4, validation=Validation(),
        dataset_fingerprint="",
    )  # fmt: skip


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*") if path.suffix in (".safetensors", ".png", ".json")}


def test_latents_are_found_by_their_picture_and_those_of_an_early_release_belong_to_anybody(loaded, tmp_path):
    cache = tmp_path / "cache"
    spec = job(tmp_path / "one")
    Dataset.open(spec, loaded, cache).batch(0)
    [path] = stamps(cache)
    assert list(cached_of(cache, {spec.images[0].sha256})) == [path]
    assert list(cached_of(cache, {"0" * 64})) == []
    with safe_open(path, "pt") as file:
        digest = file.metadata()["sha256"].split()[0]
    save_file(load_file(path), path, {"sha256": digest})
    before = stamps(cache)
    Dataset.open(spec, loaded, cache).batch(0)
    assert stamps(cache) == before, "it is still used"
    assert list(cached_of(cache, {"0" * 64})) == [path]
    assert list(cached_of(tmp_path / "none", {"0" * 64})) == []


def test_latents_are_shared_between_jobs_of_the_same_picture(loaded, tmp_path):
    one, two = job(tmp_path / "one"), job(tmp_path / "two", rank=2, seed=3)
    first = Dataset.open(one, loaded, tmp_path / "cache").batch(0)
    before = stamps(tmp_path / "cache")
    assert len(before) == 1
    assert next(iter(before)).parent.parent == tmp_path / "cache" / "latents"
    Dataset.open(two, loaded, tmp_path / "cache").batch(0)
    assert stamps(tmp_path / "cache") == before  # a file that is made again is another file
    assert torch.equal(Dataset.open(one, loaded).batch(0).z, first.z)


@pytest.mark.parametrize("recipe", [{"flip": True}, {"resolution": 40}, {"buckets": True}, {"crop": "random"}])
def test_another_view_is_another_file(loaded, tmp_path, recipe):
    Dataset.open(job(tmp_path / "one"), loaded, tmp_path / "cache").batch(0)
    dataset = Dataset.open(job(tmp_path / "one", **recipe), loaded, tmp_path / "cache")
    for index in range(8):
        dataset.batch(index)
    assert len(stamps(tmp_path / "cache")) > 1


def test_another_vae_is_another_file(loaded, tmp_path):
    """The fingerprint changes with the weights and with the configuration, and not with the UNet."""
    base = Base("copy", tmp_path / "base")
    shutil.copytree(loaded.base.path, base.path)
    assert base.vae_fingerprint == loaded.base.vae_fingerprint
    config = base.path / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.5}))
    scaled = Base("scaled", base.path).vae_fingerprint
    weights = next((base.path / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert len({base.vae_fingerprint, scaled, Base("changed", base.path).vae_fingerprint}) == 3
    assert Base("changed", base.path).fingerprint == loaded.base.fingerprint


def test_a_base_with_another_vae_shares_no_latents(loaded, tmp_path):
    """Though its UNet is the same, and so its adapters."""
    other = LoadedBase.load(add_folder(loaded.base, "sharp", Home(tmp_path / "home"), str(other_vae(tmp_path))).base)
    assert other.base.fingerprint == loaded.base.fingerprint
    spec, cache = job(tmp_path / "one"), tmp_path / "cache"
    first = Dataset.open(spec, loaded, cache).batch(0).z
    before = stamps(cache)
    second = Dataset.open(spec, other, cache).batch(0).z
    assert len(stamps(cache)) == len(before) + 1
    assert not torch.equal(first, second)
    for base, latents in ((loaded, first), (other, second)):
        assert torch.equal(Dataset.open(spec, base).batch(0).z, latents)
        assert torch.equal(Dataset.open(spec, base, cache).batch(0).z, latents)
    assert len(stamps(cache)) == len(before) + 1


def test_no_latents_of_another_vae_are_trained_on(loaded, tmp_path):
    """The same picture on two bases with the same UNet and different VAEs, sharing a cache."""
    spec = job(tmp_path / "one", prior={**GENERATE, "count": 1})
    shutil.copytree(loaded.base.path, tmp_path / "base")
    one = LoadedBase.load(Base("copy", tmp_path / "base"))
    first = Dataset.open(spec, one, tmp_path / "cache").batch(0)
    weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    other = LoadedBase.load(Base("copy", tmp_path / "base"))
    assert other.base.fingerprint == one.base.fingerprint
    shared = Dataset.open(spec, other, tmp_path / "cache").batch(0)
    own = Dataset.open(spec, other).batch(0)
    assert torch.equal(shared.z, own.z)  # the subject's row and the class's
    assert not torch.equal(shared.z[0], first.z[0])
    assert not torch.equal(shared.z[1], first.z[1])


def flipped(data: bytes) -> bytes:
    """One bit of the tensors, which the format itself does not notice."""
    return data[:-9] + bytes([data[-9] ^ 64]) + data[-8:]


@pytest.mark.parametrize("harm", [flipped, lambda d: d[:-40], lambda d: d[:5], lambda d: b"", lambda d: d[:8] + d[9:]])
def test_a_damaged_file_is_made_again(loaded, tmp_path, harm):
    spec = job(tmp_path / "one")
    good = Dataset.open(spec, loaded, tmp_path / "cache").batch(0)
    [path] = stamps(tmp_path / "cache")
    data = path.read_bytes()
    path.write_bytes(harm(data))
    assert torch.equal(Dataset.open(spec, loaded, tmp_path / "cache").batch(0).z, good.z)
    assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half written


def test_a_cache_that_cannot_be_written_says_so(loaded, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="choose another LORAFLEET_HOME"):
        Dataset.open(job(tmp_path / "one"), loaded, tmp_path / "cache")


def test_generated_class_images_are_the_bases_own_each_with_its_seed(loaded, tmp_path):
    spec = job(tmp_path / "one", prior=GENERATE)
    Dataset.open(spec, loaded, tmp_path / "cache")
    [folder] = (path for path in (tmp_path / "cache" / "prior").iterdir() if path.is_dir())
    card = json.loads((folder / CARD).read_text())
    assert (card["prompt"], card["base"]) == ("a photo of a dog", loaded.base.fingerprint)
    assert [(i["file"], i["seed"]) for i in card["images"]] == [("0000.png", 0), ("0001.png", 1)]
    one, two = (Image.open(folder / i["file"]) for i in card["images"])
    assert one.size == (32, 32)
    assert one.tobytes() != two.tobytes()
    assert (folder / "0001.png").read_bytes() == Maker.of(spec, loaded).make(1)

    before = stamps(folder)
    again = Dataset.open(job(tmp_path / "two", prior={**GENERATE, "count": 3}, seed=5), loaded, tmp_path / "cache")
    after = stamps(folder)
    assert {path: ino for path, ino in after.items() if path in before and path.name != CARD} == {
        path: ino for path, ino in before.items() if path.name != CARD
    }
    assert len(again.class_images) == len([path for path in after if path.suffix == ".png"]) == 3
    assert len(Dataset.open(spec, loaded, tmp_path / "cache").class_images) == 2  # the two it asked for


def test_generated_class_images_are_kept_apart_by_what_they_depend_on(loaded, tmp_path):
    other = LoadedBase.load(find_base("toy-playground"))
    half = LoadedBase.load(find_base("toy-sdxl"), precision="bf16")
    plain = Maker.of(job(tmp_path / "one", prior=GENERATE), loaded).settings
    different = [
        Maker.of(job(tmp_path / "one", prior={**GENERATE, "prompt": "a cat"}), loaded).settings,
        Maker.of(job(tmp_path / "one", prior=GENERATE, resolution=40), loaded).settings,
        Maker.of(job(tmp_path / "one", prior=GENERATE), other).settings,
        Maker.of(job(tmp_path / "one", prior=GENERATE), half).settings,
    ]
    assert all(settings != plain for settings in different)
    assert Maker.of(job(tmp_path / "two", prior={**GENERATE, "weight": 3}, rank=2), loaded).settings == plain


@pytest.mark.parametrize("name", ["0000.png", CARD])
def test_damaged_class_images_are_made_again(loaded, tmp_path, name):
    spec = job(tmp_path / "one", prior=GENERATE)
    good = Dataset.open(spec, loaded, tmp_path / "cache").batch(0)
    [path] = (tmp_path / "cache" / "prior").glob(f"*/{name}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert torch.equal(Dataset.open(spec, loaded, tmp_path / "cache").batch(0).z, good.z)
    assert path.read_bytes() == data
    assert torch.equal(Dataset.open(spec, loaded).batch(0).z, good.z)  # made in memory, the same


PROCESS = """
import sys
from pathlib import Path
from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data import Dataset
from lorafleet_jobs.train.data.prior import Maker

make, made = Maker.make, []
Maker.make = lambda self, seed: made.append(seed) or make(self, seed)
spec = JobSpec.model_validate_json(Path(sys.argv[1]).read_text())
warm = LoadedBase.load(find_base("toy-sdxl"))
print("ready", flush=True)
sys.stdin.readline()
dataset = Dataset.open(spec, warm, Path(sys.argv[2]))
print(len(made), " ".join(source.file.sha256 for source in dataset.class_images))
"""


def test_two_processes_make_the_same_class_images_once(tmp_path):
    """Both are ready before either may start, so that they meet at the lock."""
    (tmp_path / "job.json").write_text(job(tmp_path / "one", prior={**GENERATE, "count": 4}).model_dump_json())
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "job.json"), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert sorted(int(words[0]) for words in said) == [0, 4]
    assert said[0][1:] == said[1][1:]
    assert len(set(said[0][1:])) == 4
