"""Early stop without a cluster: a sweep is trained in one pack, compared by its pictures, answered from SQL."""

from __future__ import annotations

import shutil
from statistics import fmean

import numpy as np
import pytest
import torch
from null_tracker import NullTracker
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from lorafleet.bases import SHIPPED, find_base
from lorafleet.bundle.bundle import WEIGHTS, Bundle, sha256_of
from lorafleet.config import EarlyStop, Recipe, Resources, Validation
from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import Scene, unseen_identity
from lorafleet.util.addresses import sqlite_url
from lorafleet_jobs.evaluate.encoders import Clip, Dino
from lorafleet_jobs.evaluate.find import training_pictures
from lorafleet_jobs.evaluate.trial_score import RECENT, ToyScore, recent_loss, trial_of
from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.asha_scores import ScoreBook
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import SubmissionRow, open_database
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Cancelled, EarlyStopped, NoTrial, Pack, TrainJob
from lorafleet_jobs.train.batching import ExactBatching

STEPS = 9
EARLY = EarlyStop(first=2, eta=2, metric="score")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-playground"))


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    return write_subjects(tmp_path_factory.mktemp("photos"), ["mug", "dog"], pictures=3)


@pytest.fixture
def book(tmp_path):
    return ScoreBook(open_database(sqlite_url(tmp_path / "rows.db")))


def spec_of(subject, job="a", early=EARLY, **recipe):
    files = sorted(subject.folder.glob("*.png"))
    images = tuple(ImageSpec(file=file.name, caption=None, sha256=sha256_of(file)) for file in files)
    noun = subject.identity.noun
    return JobSpec(
        id=job, submission="test", subject=subject.name, adapter=subject.name, base="toy-playground",
        folder=str(subject.folder), images=images, class_noun=noun, instance_prompt=f"a photo of TOK {noun}",
        recipe=Recipe(**{"rank": 2, "optimizer": "adamw"} | recipe), steps=STEPS, validation=Validation(steps=2),
        early_stop=early, dataset_fingerprint="",
    )  # fmt: skip


class Kept(NullTracker):
    """Keeps what it is told."""

    def __init__(self):
        self.scores, self.pictures = {}, []

    def metrics(self, step, values):
        if "eval/score" in values:
            self.scores[step] = values["eval/score"]

    def image(self, key, step, image, caption=None):
        self.pictures.append((key, step))


def train(loaded, folder, specs, ask=None, checkpoints=False):
    """Trains jobs in one pack; `ask(spec, rung, score)` answers their rungs. Returns ends and trackers by job."""
    pack, ends, trackers = Pack(loaded, batching=ExactBatching()), {}, {spec.id: Kept() for spec in specs}
    for spec in specs:
        trial = trial_of(spec, lambda rung, score, spec=spec: ask(spec, rung, score), "cpu") if ask else NoTrial()
        checkpoint_dir = folder / "checkpoints" / spec.id if checkpoints else None
        tracker = trackers[spec.id]
        job = TrainJob(
            spec, folder / spec.id, tracker, lambda step, loss: None, checkpoints=checkpoint_dir, trial=trial
        )
        pack.join(job)
    while pack.runs:
        ends |= {run.job.spec.id: end for run, end in pack.step()}
    return ends, trackers


def test_the_worse_leave_and_the_better_end_as_without_them(loaded, subjects, book, tmp_path):
    """Four points of one subject in one pack: whoever goes on has the bits it has without early stop."""
    points = {"a": 1e-4, "b": 3e-3, "c": 1e-5, "d": 1e-3}
    specs = [spec_of(subjects[0], job, learning_rate=rate) for job, rate in points.items()]
    ends, trackers = train(
        loaded, tmp_path / "early", specs, lambda spec, rung, score: book.verdict(spec, 1, rung, score)
    )
    stopped = {job: str(end) for job, end in ends.items() if isinstance(end, EarlyStopped)}
    assert stopped
    assert len(stopped) < 4
    assert "a" not in stopped or "step 2" not in stopped["a"], "the first at a rung goes on"
    for job, reason in stopped.items():
        score = trackers[job].scores[max(trackers[job].scores)]
        assert reason.startswith(f"stopped at step {max(trackers[job].scores)} of 9 by early_stop: score {score:.4g}, ")
        assert not (tmp_path / "early" / job).exists(), "nothing of it is published"
    best = max(points, key=lambda job: trackers[job].scores[2])
    assert best not in stopped or "step 2" not in stopped[best]

    whole, quiet = train(loaded, tmp_path / "whole", [spec.with_changes(early_stop=None) for spec in specs])
    for job, end in ends.items():
        assert quiet[job].scores == {}
        if isinstance(end, Bundle):
            mine, other = (load_file(one.path / WEIGHTS) for one in (end, whole[job]))
            assert all(torch.equal(mine[name], other[name]) for name in other)
            assert sorted(trackers[job].scores) == [2, 4, 8, 9], "the end is scored too"
            by_step = [step for key, step in trackers[job].pictures if key.endswith("/by step")]
            assert by_step == [0, 2, 4, 8, 9]


def test_a_job_that_comes_again_is_told_the_same(subjects, book):
    one, two, three = (spec_of(subjects[0], job) for job in "abc")
    assert book.verdict(one, 1, 2, 0.5) == Verdict(True, None)
    assert book.verdict(two, 1, 2, 0.1) == Verdict(False, 0.5)
    assert book.verdict(three, 1, 2, 0.9) == Verdict(True, pytest.approx(0.3))
    assert book.verdict(two, 2, 2, 0.1) == Verdict(False, 0.5), "whoever came since"
    assert book.verdict(one, 2, 2, -9.0) == Verdict(True, None), "nor does another score change the answer"
    assert sorted(book.of_rung("test", one.subject, 2)) == [0.1, 0.5, 0.9]
    assert book.verdict(one, 1, 4, -9.0) == Verdict(True, None), "another rung is another comparison"


def test_subjects_and_submissions_are_compared_each_for_itself(subjects, book):
    assert book.verdict(spec_of(subjects[0], "a"), 1, 2, 0.9).bar is None
    assert book.verdict(spec_of(subjects[1], "b"), 1, 2, 0.1) == Verdict(True, None)
    assert book.verdict(spec_of(subjects[0], "c").with_changes(submission="other"), 1, 2, 0.1) == Verdict(True, None)


def test_a_resumed_job_has_the_same_scores(loaded, subjects, tmp_path, monkeypatch):
    monkeypatch.setattr("lorafleet_jobs.train.job_run.CHECKPOINT_SECONDS", 0.0)
    spec, told = spec_of(subjects[0]), []

    def interrupted(spec, rung, score):
        told.append((rung, score))
        if len(told) == 2:
            raise Cancelled
        return Verdict(True, None)

    ends, _ = train(loaded, tmp_path, [spec], interrupted, checkpoints=True)
    assert isinstance(ends["a"], Cancelled)
    ends, trackers = train(loaded, tmp_path, [spec], interrupted, checkpoints=True)
    assert isinstance(ends["a"], Bundle)
    assert [rung for rung, _ in told] == [2, 4, 4, 8], "it goes on from step 3, behind the first rung"
    assert told[1] == told[2]
    assert sorted(trackers["a"].scores) == [4, 8, 9]


def test_the_toy_score_is_higher_for_the_subject_and_for_what_the_prompt_asks(subjects):
    mug = subjects[0]
    prompts = ("a photo of TOK mug on the beach", "a photo of TOK mug at night")
    spec = spec_of(mug).with_changes(validation=Validation(prompts=prompts))
    score = ToyScore(spec)

    def seen(identity, *places):
        return score([render(Scene(identity, place), 128) for place in places], [])

    right = seen(mug.identity, "beach", "night")
    other = seen(unseen_identity(7, "mug"), "beach", "night")
    dog = seen(unseen_identity(1, "dog"), "beach", "night")
    elsewhere = seen(mug.identity, "night", "beach")
    assert right > other > dog
    assert right > elsewhere
    assert right - elsewhere == pytest.approx(0.25, abs=0.02), "one attribute of two, half of the score"


def test_a_loss_looks_back_on_the_last_ones():
    losses = [9.0] * 5 + [float(i) for i in range(RECENT)]
    assert recent_loss([], losses) == -fmean(range(RECENT))


def test_a_loss_needs_no_pictures_and_says_so_in_its_own_units(loaded, subjects, tmp_path):
    early = EarlyStop(first=3, eta=3, metric="loss")
    spec = spec_of(subjects[0], early=early)
    ends, trackers = train(loaded, tmp_path, [spec], lambda spec, rung, score: Verdict(False, -0.001))
    score = trackers["a"].scores[3]
    assert str(ends["a"]) == (
        f"stopped at step 3 of 9 by early_stop: loss {-score:.4g}, the best third begins at 0.001"
    )
    assert trackers["a"].pictures == [("1 TOK/training photos", 0), ("1 TOK/base", 0)]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of a small random DINO and CLIP."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False).save_pretrained(root / "dino")
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED["toy-sdxl"] / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, **ends, **SMALL}
    vision = {"image_size": 32, "patch_size": 8, **SMALL}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    return root


@pytest.mark.parametrize(("metric", "folder"), [("dino", "dino"), ("clip-i", "clip"), ("clip-t", "clip")])
def test_encoders_score_pictures_by_their_embeddings(subjects, encoders, metric, folder):
    early = EarlyStop(first=2, metric=metric, weights=str(encoders / folder))
    trial = trial_of(spec_of(subjects[0], early=early), lambda rung, score: Verdict(True, None), "cpu")
    tracker, given = Kept(), subjects[0].pictures()[:1]
    trial.report(2, given, [], tracker)
    x = torch.from_numpy(np.stack([np.asarray(picture) for picture in given]) / np.float32(255)).permute(0, 3, 1, 2)
    if metric == "clip-t":
        clip = Clip.load(encoders / "clip")
        expected = clip.embed(x) @ clip.embed_texts(["a photo of a mug"]).T
    else:
        encoder = (Dino if metric == "dino" else Clip).load(encoders / folder)
        expected = encoder.embed(x) @ encoder.embed(training_pictures(trial.spec, 32)).T
    assert tracker.scores == {2: pytest.approx(float(expected.mean()), abs=1e-6)}


def test_changed_pictures_are_refused_before_the_first_step(subjects, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(subjects[0].folder, folder)
    spec = spec_of(subjects[0]).with_changes(folder=str(folder))
    render(Scene(subjects[1].identity, "sea"), 64).save(folder / spec.images[0].file)
    with pytest.raises(DataError, match="has changed since"):
        trial_of(spec, lambda rung, score: Verdict(True, None), "cpu")
    assert isinstance(trial_of(spec.with_changes(early_stop=None), None, "cpu"), NoTrial)


def test_only_the_attempt_that_holds_a_job_is_answered(subjects, tmp_path):
    url = sqlite_url(tmp_path / "queue.db")
    store, spec = JobStore(url), spec_of(subjects[0])
    store.add(SubmissionRow("test", "test", "toy-playground", "", 1, Resources()), (spec,), now=0.0)
    store.set_run("test", "a", "run")
    queue = JobQueue(url, "test", clock=lambda: 1.0)
    lease = queue.lease("lane", ())
    assert queue.report("a", lease.attempt + 1, 2, 0.5) is None
    assert ScoreBook(store.engine).of_rung("test", spec.subject, 2) == []
    assert queue.report("a", lease.attempt, 2, 0.5) == Verdict(True, None)
    assert ScoreBook(store.engine).of_rung("test", spec.subject, 2) == [0.5]
    assert store.jobs("test")[0].step == 2
    assert queue.finish("a", lease.attempt, "stopped", None, "why")
    assert queue.report("a", lease.attempt, 4, 0.5) is None, "it has ended"
