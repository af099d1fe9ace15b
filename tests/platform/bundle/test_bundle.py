"""A bundle is seen whole or not at all, and refused with a reason when anything about it is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lorafleet.bases import find_base
from lorafleet.bundle import bundle
from lorafleet.bundle.bundle import CARD, WEIGHTS, AdapterCard, Trigger, read_bundle, write_bundle
from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet.errors import BundleError, WrongBaseError

BASE, OTHER = find_base("toy-sdxl"), find_base("toy-playground")
FILES = {WEIGHTS: save({"unet.a.lora.down.weight": torch.ones(2, 3)}), "preview.png": b"png", "README.md": b"# rex"}


def card(**changes):
    return AdapterCard(
        **{
            "name": "rex", "base": "toy-sdxl", "base_fingerprint": BASE.fingerprint, "prediction": "epsilon", "rank": 2,
            "alpha": 2.0, "targets": ("to_q",), "triggers": (Trigger(trigger="<rex>", abstraction="TOK", text="TOK"),),
            "class_noun": "dog", "instance_prompt": "a photo of TOK dog", "recipe": {}, "dataset_fingerprint": "d",
            "images": 4, "steps": 10, "licence": "apache-2.0", "job_id": "j", "lorafleet_version": "0",
        }
        | changes
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    written = write_bundle(tmp_path / "rex", card(), FILES)
    read = read_bundle(tmp_path / "rex", BASE)
    assert read.card == written.card
    assert set(read.card.sha256) == set(FILES)
    assert read.weights()["unet.a.lora.down.weight"].shape == (2, 3)
    assert read.embeddings() == {}
    assert [p.name for p in tmp_path.iterdir()] == ["rex"]


def test_writing_again_replaces(tmp_path):
    write_bundle(tmp_path / "rex", card(), FILES)
    write_bundle(tmp_path / "rex", card(steps=20), FILES)
    assert read_bundle(tmp_path / "rex").card.steps == 20


def test_the_bundle_that_readers_see_is_never_deleted_file_by_file(tmp_path, monkeypatch):
    write_bundle(tmp_path / "rex", card(), FILES)
    deleted, rmtree = [], shutil.rmtree

    def watched(path, **options):
        deleted.append(Path(path))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    write_bundle(tmp_path / "rex", card(steps=20), FILES)
    assert deleted
    assert tmp_path / "rex" not in deleted


def test_half_written_bundles_beside_whole_ones_are_none(tmp_path):
    write_bundle(tmp_path / "rex", card(), FILES)
    shutil.copytree(tmp_path / "rex", tmp_path / ".rex.0123")  # as a killed writer leaves it
    assert [one.path.name for one in FolderRegistry(tmp_path).list()] == ["rex"]


def test_a_file_of_more_bytes_than_are_read_is_refused(tmp_path, monkeypatch):
    write_bundle(tmp_path / "rex", card(), FILES)
    size = (tmp_path / "rex" / WEIGHTS).stat().st_size
    monkeypatch.setattr(bundle, "MAX_BYTES", size)
    read_bundle(tmp_path / "rex")
    monkeypatch.setattr(bundle, "MAX_BYTES", size - 1)
    with pytest.raises(BundleError, match=f"{WEIGHTS}: {size} bytes; at most {size - 1} are read"):
        read_bundle(tmp_path / "rex")


def damage_flip(path):
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(bytes(data))


def damage_card(path, **changes):
    data = json.loads((path / CARD).read_text())
    (path / CARD).write_text(json.dumps({key: value for key, value in (data | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_flip, "do not match the sha256"),
        (lambda path: (path / CARD).unlink(), "the bundle is incomplete"),
        (lambda path: (path / CARD).write_text("{"), "the bundle is incomplete"),
        (lambda path: (path / "preview.png").unlink(), "not there"),
        (lambda path: damage_card(path, sha256={"preview.png": "0"}), "do not match"),
        (lambda path: damage_card(path, sha256={}), "only safetensors are accepted"),
        (lambda path: damage_card(path, sha256={"../rex/preview.png": "0"}), "not there"),
        (lambda path: damage_card(path, rank=None), "'rank' is missing"),
        (lambda path: damage_card(path, ranks=3), "did you mean 'rank'"),
        (lambda path: damage_card(path, name="../evil"), "name is '../evil'"),
    ],
)
def test_damage_is_named(tmp_path, damage, says):
    write_bundle(tmp_path / "rex", card(), FILES)
    damage(tmp_path / "rex")
    with pytest.raises(BundleError, match=says) as refused:
        read_bundle(tmp_path / "rex")
    assert "\n" not in str(refused.value)


def test_another_base_is_refused_by_name(tmp_path):
    write_bundle(tmp_path / "rex", card(), FILES)
    with pytest.raises(WrongBaseError, match=r"made for base 'toy-sdxl'.*; serve that base instead$"):
        read_bundle(tmp_path / "rex", OTHER)


def test_a_card_from_before_fingerprints_were_of_values_fits_or_says_what_to_do(tmp_path):
    write_bundle(tmp_path / "rex", card(base_fingerprint="1ccd2d487063697d"), FILES)  # toy-sdxl's files, as it was then
    assert read_bundle(tmp_path / "rex", BASE).card.name == "rex"
    with pytest.raises(WrongBaseError, match=r"serve that base instead.*lorafleet adapters import"):
        read_bundle(tmp_path / "rex", OTHER)


def _write_forever(target):
    big = FILES | {"preview.png": os.urandom(2_000_000)}
    while True:
        write_bundle(target, card(), big)


def test_a_kill_at_any_moment_leaves_a_whole_bundle_or_none(tmp_path):
    """Twenty kills at different moments of writing; the reader sees a verified bundle, or none at all."""
    context = multiprocessing.get_context("fork")
    whole = 0
    for i in range(20):
        target = tmp_path / f"rex-{i}"
        writer = context.Process(target=_write_forever, args=(target,))
        writer.start()
        time.sleep(0.004 * i)
        while i == 19 and not target.exists():  # the last kill comes after a write, however slow the disk is
            time.sleep(0.001)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        if target.exists():
            read_bundle(target)
            whole += 1
    assert whole > 0


def test_the_same_weights_with_another_prediction_are_another_base(tmp_path):
    """As when a checkpoint is added twice, once with what its UNet predicts said wrongly."""
    folder = tmp_path / "v"
    shutil.copytree(BASE.path, folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**BASE.scheduler, "prediction_type": "v_prediction"}))
    write_bundle(tmp_path / "rex", card(), FILES)
    with pytest.raises(WrongBaseError, match=r"was trained to predict epsilon, and base '.*', of the same weights"):
        read_bundle(tmp_path / "rex", find_base(str(folder)))
