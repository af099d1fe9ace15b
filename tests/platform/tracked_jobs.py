"""What tests of tracking share: what a job tells, and a bundle such as it writes."""

from pathlib import Path

import torch
from safetensors.torch import save

from lorafleet.bundle.bundle import WEIGHTS, AdapterCard, Bundle, Trigger, write_bundle
from lorafleet.tracking import JobInfo


def job(subject="rex", **changes):
    values = {
        "name": f"{subject} r4", "job_id": "a" * 16, "subject": subject, "adapter": subject,
        "params": {"base": "toy-playground", "rank": "4", "steps": "12"}, "recipe_yaml": "rank: 4\nalpha: 4\n",
        "folder": "/photos/rex", "images": 5, "dataset_fingerprint": "f" * 64,
    }  # fmt: skip
    return JobInfo(**{**values, **changes})


def bundle_at(path: Path, name="rex", job_id="a" * 16, base="toy-playground", metrics=None) -> Bundle:
    card = AdapterCard(
        name=name, base=base, base_fingerprint="0" * 16, prediction="edm", rank=4, alpha=4,
        targets=("to_q",), triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK", tokens=(0, 1)),),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="f", images=5,
        steps=12, licence="apache-2.0", job_id=job_id, lorafleet_version="0.1.0",
        metrics=metrics or {},
    )  # fmt: skip
    return write_bundle(path, card, {WEIGHTS: save({"unet.a.lora_A.weight": torch.ones(4, 8)})})
