"""Several workers of one job: the same result as one, and no worker left waiting when one of them cannot go on."""

from __future__ import annotations

import random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from null_tracker import NullTracker

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Cancelled, Follower, Pack, TrainJob
from lorafleet_jobs.train.data_parallel import ProcessGroup
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

STEPS = 4


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i in range(3):
        render(random_scene(unseen_identity(0, "dog"), rng), 32).save(folder / f"{i}.png")
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(folder / f"{i}.png")) for i in range(3))
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base="toy-sdxl", folder=str(folder),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog", steps=STEPS, validation=Validation(),
        dataset_fingerprint="",
        recipe=Recipe(rank=2, gradient_accumulation=4, workers=2, optimizer="adamw", max_grad_norm=None),
    )  # fmt: skip


def joined(rank, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    return LoadedBase.load(find_base("toy-sdxl")), ProcessGroup.current()


def share(rank, rendezvous, spec, out):
    """A worker's whole life: trains, and leaves its parameters."""
    loaded, process_group = joined(rank, rendezvous)
    training = Training.prepare(spec, loaded, process_group=process_group)
    losses = [train_step_alone(training, step) for step in range(1, STEPS + 1)]
    trainable = training.trainable.parameters()
    torch.save((losses, [p.detach() for p in trainable], [p.grad for p in trainable]), out / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_come_to_what_one_does(spec, tmp_path):
    """Gradients too: AdamW does not see their scale, so that with a wrong one the parameters would be the same."""
    mp.spawn(share, (tmp_path / "meeting", spec, tmp_path), nprocs=2)
    (losses, first, gradients), (same, second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    alone = Training.prepare(spec, LoadedBase.load(find_base("toy-sdxl")))
    assert losses == pytest.approx([train_step_alone(alone, step) for step in range(1, STEPS + 1)], rel=1e-4)
    for found, gradient, expected in zip(first, gradients, alone.trainable.parameters(), strict=True):
        assert (found - expected).norm() <= 1e-3 * expected.norm()
        assert (gradient is None) == (expected.grad is None)  # tokens are frozen by then
        if gradient is not None:
            assert (gradient - expected.grad).norm() <= 0.01 * expected.grad.norm()


def leave(rank, rendezvous, spec, out):
    """The first worker is cancelled after two steps; the other knows nothing of it."""
    loaded, process_group = joined(rank, rendezvous)
    try:
        if rank == 0:
            lead(spec, loaded, process_group, out)
        else:
            Follower(spec, loaded, process_group).run()
    except (NonFiniteError, Cancelled) as problem:
        (out / f"{rank}.txt").write_text(type(problem).__name__)
    dist.destroy_process_group()


def lead(spec, loaded, process_group, out):
    def on_step(step, loss):
        if step == 2:
            raise Cancelled

    pack = Pack(loaded)
    pack.join(TrainJob(spec, out / "bundle", NullTracker(), on_step, process_group=process_group))
    while pack.runs:
        for _, end in pack.step():
            if isinstance(end, Exception):
                raise end


def test_when_the_first_worker_is_cancelled_the_others_end_too(spec, tmp_path):
    mp.spawn(leave, (tmp_path / "meeting", spec, tmp_path), nprocs=2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["Cancelled", "NonFiniteError"]


def test_workers_share_micro_batches_evenly():
    with pytest.raises(ValueError, match="make that a multiple"):
        Recipe(gradient_accumulation=3, workers=2)
