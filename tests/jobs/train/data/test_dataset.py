"""What a job is trained on, batch by batch: the right latents, texts, time ids and weights, from the index alone.

The defects that the reference scripts have here are named by their numbers in the list of trainers' defects.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import ClassImages, ImageSpec, JobSpec, MaskSpec
from lorafleet_jobs.train.data import Batch, Dataset

SIZES = [(48, 48), (96, 40), (40, 96), (32, 64), (64, 32), (44, 50), (48, 48)]
"""Width and height of the images of `photos`; two of them are cut alike, so that only the picture tells them apart."""


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        small = Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def image(folder, name, caption=None, mask=None):
    mask = MaskSpec(file=mask, sha256=sha256_of(folder / mask)) if mask else None
    return ImageSpec(file=name, caption=caption, sha256=sha256_of(folder / name), mask=mask)


def job(folder, images=None, class_images=None, **recipe):
    images = images or [image(folder, f"{i}.png", f"TOK {i}") for i in range(len(SIZES))]
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base="toy-sdxl", folder=str(folder),
        images=tuple(images), class_images=class_images, class_noun="dog", instance_prompt="a photo of TOK dog",
        recipe=Recipe(**recipe), steps=4, validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip


def class_folder(folder, *names):
    return ClassImages(folder=str(folder), images=tuple(image(folder, name) for name in names))


def same(one: Batch, two: Batch) -> bool:
    tensors = ("z", "time_ids", "weights")
    masks = (one.mask is None) == (two.mask is None) and (one.mask is None or torch.equal(one.mask, two.mask))
    return (
        (one.captions, one.predicted) == (two.captions, two.predicted)
        and masks
        and all(torch.equal(getattr(one, t), getattr(two, t)) for t in tensors)
    )


def encoded(loaded, folder, name, ids):
    """The posterior's mean of a picture cut as its time ids say, by nothing but Pillow and the VAE."""
    height, width, top, left, h, w = (int(v) for v in ids)
    factor = max(h / height, w / width)
    with Image.open(folder / name) as picture:
        resized = picture.convert("RGB").resize(
            (round(width * factor), round(height * factor)), Image.Resampling.LANCZOS
        )
    cut = np.asarray(resized.crop((left, top, left + w, top + h)), dtype=np.float32)
    x = torch.from_numpy(cut / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        posterior = loaded.vae.encode(x).latent_dist
    return loaded.scale.to_model(posterior.mean)[0], loaded.scale.factor * posterior.std[0]


@pytest.mark.parametrize("recipe", [{}, {"crop": "random"}, {"buckets": True}, {"buckets": True, "crop": "random"}])
def test_latents_are_of_the_image_that_caption_and_time_ids_are_of(loaded, photos, tmp_path, recipe):
    """Defect 1: a cache by step pairs latents with other images' captions and time ids."""
    dataset = Dataset.open(job(photos, batch_size=3, seed=5, **recipe), loaded, tmp_path)
    shown = set()
    for index in range(2 * len(SIZES)):
        batch = dataset.batch(index)
        for z, caption, ids in zip(batch.z, batch.captions, batch.time_ids, strict=True):
            i = int(caption.removeprefix("TOK "))
            shown.add(i)
            assert ids[:2].tolist() == [*SIZES[i][::-1]]
            mean, std = encoded(loaded, photos, f"{i}.png", ids)
            assert z.shape[1:] == (ids[4] // 4, ids[5] // 4)
            assert ((z - mean) / std).abs().max() < 6  # a draw of that posterior, whose std is about 0.01
            assert (z - mean).abs().max() < 0.2
    assert shown == set(range(len(SIZES)))


def test_another_draw_of_the_posterior_at_each_use(loaded, photos):
    dataset = Dataset.open(job(photos, [image(photos, "0.png")]), loaded)
    one, two = dataset.batch(0).z, dataset.batch(1).z
    assert 0 < (one - two).abs().max() < 0.2


@pytest.mark.parametrize(
    "recipe",
    [{"flip": True}, {"crop": "random"}, {"buckets": True, "crop": "random", "flip": True, "repeats": 3},
     {"caption": {"shuffle": True, "dropout": 0.5}, "prior": {"mode": "predict", "batch_size": 1}}],
)  # fmt: skip
def test_a_batch_is_a_function_of_job_and_index(loaded, photos, tmp_path, recipe):
    """The seventh is the same whether or not the others were asked for, and whatever the cache holds."""
    spec = job(photos, batch_size=2, **recipe)
    asked = Dataset.open(spec, loaded, tmp_path)
    before = [asked.batch(index) for index in range(8)]
    assert same(before[7], Dataset.open(spec, loaded, tmp_path).batch(7))
    assert same(before[7], Dataset.open(spec, loaded).batch(7))
    assert same(before[3], asked.batch(3))
    assert not same(before[7], before[6])
    other = spec.with_changes(recipe=spec.recipe.with_changes(seed=1))
    assert not same(before[7], Dataset.open(other, loaded).batch(7))


def test_augmentation_is_drawn_anew_in_each_epoch(loaded, photos):
    """Defect 12: the reference flips and crops each image once, for the whole run."""
    dataset = Dataset.open(job(photos, [image(photos, "1.png")], crop="random", flip=True), loaded)
    batches = [dataset.batch(epoch) for epoch in range(120)]
    lefts = Counter(int(batch.time_ids[0, 3]) for batch in batches)
    assert len(lefts) == 9  # 96 x 40 to 77 x 32: nine windows
    assert max(lefts.values()) < 40
    at_left = [batch.z for batch in batches if batch.time_ids[0, 3] == min(lefts)]
    assert max((z - at_left[0]).abs().max() for z in at_left) > 0.5  # mirrored or not


def test_repeats_lengthen_the_epoch(loaded, photos):
    dataset = Dataset.open(job(photos, repeats=2, batch_size=2), loaded)
    assert len(dataset) == 14
    shown = Counter(caption for index in range(7) for caption in dataset.batch(index).captions)
    assert set(shown.values()) == {2}


def test_captions_take_prefix_shuffle_and_dropout(loaded, photos):
    spec = job(
        photos, [image(photos, "0.png", "TOK2 and TOK, red,  blue , small")],
        caption={"prefix": "photo of TOK, ", "shuffle": True, "keep_tokens": 1, "dropout": 0.25},
    )  # fmt: skip
    dataset = Dataset.open(spec, loaded)
    drawn = Counter(dataset.batch(index).captions[0] for index in range(400))
    assert 60 <= drawn.pop("") <= 140
    parts = [caption.split(", ") for caption in drawn]
    assert all(part[:2] == ["photo of TOK", "TOK2 and TOK"] for part in parts)
    assert sorted(sorted(part[2:]) for part in parts) == [["blue", "red", "small"]] * 6


def test_without_a_caption_the_instance_prompt_stands_as_it_is(loaded, photos):
    spec = job(photos, [image(photos, "0.png")], caption={"prefix": "photo of TOK, "})
    assert Dataset.open(spec, loaded).batch(0).captions == ["a photo of TOK dog"]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("class_size", [None, 2])
def test_rows_with_prior_keep_their_own_prompts_time_ids_and_weights(loaded, photos, tmp_path, batch_size, class_size):
    """Defect 2: with two rows or more, prompts came as i, c, i, c beside latents i, i, c, c. Defect 10: class rows had
    the subject's time ids."""
    Image.new("RGB", (70, 50), "blue").save(tmp_path / "class.png")
    prior = {"mode": "images", "images": "x", "weight": 0.5, "batch_size": class_size}
    spec = job(
        photos, [image(photos, "0.png")], class_folder(tmp_path, "class.png"), batch_size=batch_size, prior=prior,
        caption={"dropout": 0.9, "shuffle": True},
    )  # fmt: skip
    dataset = Dataset.open(spec, loaded)
    count = class_size or batch_size
    for index in range(4):
        batch = dataset.batch(index)
        assert set(batch.captions[:batch_size]) <= {"", "a photo of TOK dog"}
        assert batch.captions[batch_size:] == ["a photo of a dog"] * count
        assert batch.time_ids[:batch_size].tolist() == [[48, 48, 0, 0, 32, 32]] * batch_size
        assert batch.time_ids[batch_size:].tolist() == [[50, 70, 0, 6, 32, 32]] * count
        assert batch.weights.tolist() == pytest.approx([1 / batch_size] * batch_size + [0.5 / count] * count)
        for name, rows in (("0.png", slice(0, batch_size)), ("class.png", slice(batch_size, None))):
            folder = photos if name == "0.png" else tmp_path
            mean, _ = encoded(loaded, folder, name, batch.time_ids[rows][0])
            assert (batch.z[rows] - mean).abs().max() < 0.2
        assert batch.predicted == 0


def test_class_rows_have_the_size_of_their_batch(loaded, photos):
    spec = job(photos, batch_size=2, buckets=True, prior={"mode": "predict", "prompt": "an animal"})
    dataset, sizes = Dataset.open(spec, loaded), set()
    for index in range(12):
        batch = dataset.batch(index)
        assert len(batch.time_ids[:, 4:].unique(dim=0)) == 1
        sizes.add(tuple(batch.time_ids[0, 4:].tolist()))
        assert batch.captions[2:] == ["an animal"] * 2
        assert batch.predicted == 2
    assert len(sizes) >= 3


def test_masks_weigh_their_own_rows(loaded, photos, tmp_path):
    """Left half white; the picture without a mask counts everywhere, black counts the floor."""
    for name in ("a", "b"):
        Image.new("RGB", (48, 48), "green").save(tmp_path / f"{name}.png")
    mask = Image.new("L", (24, 24))
    mask.paste(255, (0, 0, 12, 24))
    mask.save(tmp_path / "a-mask.png")
    spec = job(
        tmp_path, [image(tmp_path, "a.png", "TOK a", "a-mask.png"), image(tmp_path, "b.png", "TOK b")],
        batch_size=2, flip=True, masked_loss=0.25, prior={"mode": "predict", "batch_size": 1},
    )  # fmt: skip
    dataset, sides = Dataset.open(spec, loaded), set()
    for index in range(12):
        batch = dataset.batch(index)
        assert batch.mask.shape == (3, 1, *batch.z.shape[2:])
        own = batch.mask[batch.captions.index("TOK a"), 0]
        assert own.flatten().unique().tolist() == [0.25, 1.0]
        assert torch.equal(own, own[:1].expand_as(own))
        sides.add(tuple(own[0].tolist()))
        assert (batch.mask[batch.captions.index("TOK b")] == 1).all()
        assert (batch.mask[2] == 1).all()
    assert sides == {(1.0,) * 4 + (0.25,) * 4, (0.25,) * 4 + (1.0,) * 4}
    assert Dataset.open(job(photos, masked_loss=0.25), loaded).batch(0).mask is None


@pytest.mark.parametrize("floor", [0, 0.25])
def test_a_crop_that_shows_nothing_of_the_subject_counts_the_floor(loaded, tmp_path, floor):
    Image.new("RGB", (128, 32), "green").save(tmp_path / "a.png")
    mask = Image.new("L", (128, 32))
    mask.putpixel((0, 0), 255)
    mask.save(tmp_path / "a-mask.png")
    spec = job(tmp_path, [image(tmp_path, "a.png", None, "a-mask.png")], masked_loss=floor)
    batch = Dataset.open(spec, loaded).batch(0)
    assert batch.weights.tolist() == [floor]
    assert (batch.mask == 1).all()


def change(path):
    Image.new("RGB", (48, 48), "red").save(path)


@pytest.mark.parametrize("which", ["0.png", "0-mask.png", "class.png"])
@pytest.mark.parametrize(
    ("harm", "said"), [(change, "submit the manifest again"), (lambda path: path.unlink(), "not a regular file")]
)
def test_a_file_that_is_gone_or_changed_is_refused_when_the_job_opens(loaded, tmp_path, which, harm, said):
    for name in ("0.png", "0-mask.png", "class.png"):
        Image.new("RGB", (40, 40), "blue").save(tmp_path / name)
    spec = job(
        tmp_path, [image(tmp_path, "0.png", None, "0-mask.png")], class_folder(tmp_path, "class.png"),
        masked_loss=0.1, prior={"mode": "images", "images": "x"},
    )  # fmt: skip
    Dataset.open(spec, loaded, tmp_path / "cache").batch(0)
    harm(tmp_path / which)
    with pytest.raises(DataError, match=said) as problem:
        Dataset.open(spec, loaded, tmp_path / "cache")
    assert which in str(problem.value)
