"""Of a folder with several variants the plain files train, else the one variant that is there; the plan says which."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packs_here import alone, spec_of

sys.path.append(str(Path(__file__).parents[2] / "platform"))
from base_files import with_variants

from lorafleet.bases import find_base
from lorafleet.cli import new_app, run
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.cli.commands import register


def losses(base, photos):
    loaded = LoadedBase.load(base)
    return alone(loaded, spec_of(loaded, photos, steps=2, rank=2))[1]


def test_the_plain_files_train_else_the_variant(photos, tmp_path):
    both, only = with_variants(tmp_path / "both", True, True), with_variants(tmp_path / "only", False, True)
    plain = losses(find_base("toy-sdxl"), photos)
    assert losses(both, photos) == plain
    assert losses(only, photos) != plain
    assert both.fingerprint == find_base("toy-sdxl").fingerprint != only.fingerprint
    assert both.vae_fingerprint != only.vae_fingerprint


@pytest.mark.parametrize(
    ("plain", "fp16", "said"),
    [
        (True, True, "is loaded from the files without a variant; not from the fp16 files beside them\n"),
        (False, True, "is loaded from the fp16 files\n"),
        (True, False, ""),
    ],
)
def test_the_plan_says_which(photos, tmp_path, capsys, plain, fp16, said):
    base = with_variants(tmp_path / "base", plain, fp16)
    (tmp_path / "m.yaml").write_text(
        f"name: pets\nbase: ./base\nsubjects:\n  - {{name: rex, images: {photos}, class: dog}}\n"
    )
    app = new_app()
    register(app)
    assert run(app, ["plan", str(tmp_path / "m.yaml")]) == 0
    out = capsys.readouterr().out
    assert (f"base {base.name} {said}" in out) if said else ("is loaded from" not in out)
