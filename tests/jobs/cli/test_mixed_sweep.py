"""Through the command line and Ray: a sweep of unlike jobs comes out of packs of four as it does job by job."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import yaml

from lorafleet.bundle.bundle import read_bundle
from lorafleet.toy.subjects import write_subjects

BAR = 1e-5
"""Relative, in L2; fp32 rounding comes to some 3e-7."""


def adapters(home):
    """What every job of a home has learned, by subject and sweep point, as one vector."""
    learned = {}
    for card in home.glob("bundles/*/adapter.json"):
        bundle = read_bundle(card.parent)
        tensors = bundle.weights() | bundle.embeddings()
        flat = torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
        learned[bundle.card.name, str(bundle.card.recipe["text_encoder_lora"])] = flat
    return learned


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mixed_sweep_is_the_same_in_packs_of_four_and_of_one(tmp_path):
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "mixed", "base": "toy-sdxl",
        "recipe": {"preset": "object", "steps": 80, "optimizer": "adamw", "learning_rate": 1e-3, "rank": 4},
        "sweep": {"text_encoder_lora": [{"rank": 4}, None]}, "validation": {"steps": 2},
        "subjects": [
            {"name": subject.name, "images": str(subject.folder), "class": subject.identity.noun}
            for subject in write_subjects(tmp_path / "photos", ["dog", "mug"], pictures=4)
        ],
    }  # fmt: skip
    learned = {}
    for pack in (1, 4):
        path, home = tmp_path / f"{pack}.yaml", tmp_path / f"home-{pack}"
        path.write_text(yaml.safe_dump(manifest | {"resources": {"pack": pack}}))
        command = [sys.executable, "-m", "lorafleet", "submit", str(path), "--yes"]
        subprocess.run(command, env=os.environ | {"LORAFLEET_HOME": str(home)}, check=True)
        learned[pack] = adapters(home)
    assert len(learned[1]) == 4
    assert learned[1].keys() == learned[4].keys()
    for which, alone in learned[1].items():
        assert (learned[4][which] - alone).norm() <= BAR * alone.norm(), which
