"""`evaluate` as its users meet it: adapters that a lane trained, real rows, real MLflow."""

import json
import re
import socket
from dataclasses import replace

import pytest
import torch
from own_lane import send
from PIL import Image
from safetensors.torch import save_file

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import read_bundle
from lorafleet.cli import new_app, run
from lorafleet.errors import DataError, NotFoundError
from lorafleet.formats.importing import Import, import_adapter
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.targets import UNET
from lorafleet.toy.subjects import write_manifest, write_subjects
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.evaluate.find import find, real_pictures, training_pictures
from lorafleet_jobs.evaluate.publish_scores import publish
from lorafleet_jobs.evaluate.run import Evaluation, ScoredRow
from lorafleet_jobs.evaluate.toy import ToyScores
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.status import load_submission, store_url
from lorafleet_jobs.lane.lane import Lane
from lorafleet_jobs.submission.submit import record

FAST = ("--samples", "1", "--steps", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, with_mlflow):
    """A home with two trained mugs and a third whose pictures vanished, and the submission's id."""
    folder = tmp_path_factory.mktemp("evaluate")
    home = Home(with_mlflow(folder / "home"))
    subjects = write_subjects(folder / "photos", ("mug", "mug", "dog"), pictures=4)
    write_manifest(folder / "m.yaml", "kitchen", "toy-sdxl", subjects, preset="fast", steps=2)
    prepared = prepare(folder / "m.yaml")
    record(prepared, home)
    for picture in subjects[2].folder.iterdir():
        picture.unlink()
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    setup = LaneConfig(name="a", home=home.root, tracking_uri=tracking.uri, cpus=1, device="cpu")
    Lane(setup, JobQueue(store_url(home), prepared.plan.submission), tracking).run()
    send(home, tracking, prepared.plan.submission)
    return home, prepared.plan.submission


@pytest.fixture
def lorafleet(trained, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(trained[0].root))
    app = new_app()
    register(app)
    return lambda *arguments: run(app, ["evaluate", *map(str, arguments)])


def registry(home):
    return MlflowRegistry(home.tracking_uri, home.adapter_cache)


def test_a_submission_is_scored_and_each_adapters_run_has_its_scores(trained, lorafleet, capsys):
    home, submission = trained
    assert lorafleet(submission, *FAST, "--json") == 1
    said = capsys.readouterr()
    assert "dog-03" in said.err
    assert "is failed" in said.err
    document = json.loads(said.out)
    assert document["title"] == "toy base, 32 px"
    assert document["scale_0_is_base"] is True
    assert list(document["arms"]) == [
        "real pictures", "adapter", "base", "scale 0", "tokens only", "wrong class word", "another's adapter",
        "shuffled trigger",
    ]  # fmt: skip
    assert {row["adapter"] for row in document["rows"]} == {"mug-01@1", "mug-02@1"}
    client = MlflowTracking(home.tracking_uri, home.artifacts).client
    for job in load_submission(home, submission).jobs[:2]:
        row = next(
            one for one in document["rows"] if one["arm"] == "adapter" and one["adapter"].startswith(job.spec.adapter)
        )
        run_of_job = client.get_run(job.run_id)
        assert run_of_job.info.status == "FINISHED"
        for name in ("toy-ID", "toy-top-1", "toy-PF", "toy-MEM"):
            assert run_of_job.data.metrics[f"eval/{name}"] == pytest.approx(row[name])
            assert client.get_metric_history(job.run_id, f"eval/{name}")[0].step == 2
        score = registry(home).resolve(job.spec.adapter).score
        assert score.metric == "toy-ID"
        assert score.value == pytest.approx(row["toy-ID"])


def test_one_adapter_by_name_as_tables(trained, lorafleet, capsys):
    home, _ = trained
    assert lorafleet(f"mug-02@{registry(home).resolve('mug-02').version}", *FAST) == 0
    said = capsys.readouterr()
    assert "what each adapter is worth" in said.out
    assert re.search(r"^mug-02@1: (keep|train again)", said.out, re.MULTILINE)
    assert "toy-PF" not in said.out, "only with --details"
    assert "another's adapter" not in said.out
    assert "no views but the training pictures are known" in said.err
    assert lorafleet("mug-02@1", *FAST, "--details") == 0
    said = capsys.readouterr()
    assert "toy base, 32 px: 1 subject" in said.out
    assert "what each adapter is worth" in said.out


def test_an_outage_or_a_missing_run_is_told_and_not_fatal(trained, caplog):
    home, submission = trained
    adapters = find([submission], home, registry(home)).adapters
    column = ToyScores.columns()[0]
    rows = tuple(ScoredRow(one.label, one.spec.subject, "adapter", ToyScores(identity=0.5)) for one in adapters)
    found = Evaluation("toy base, 32 px", (), (column,), rows, True, 0)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        dead = MlflowTracking(f"http://127.0.0.1:{taken.getsockname()[1]}", home.artifacts)
        problems = publish(found, [adapters[0], replace(adapters[1], run_id=None)], dead)
    assert problems[0] == "mug-02@1 has no MLflow run; its scores are only here"
    assert "does not answer; scores from mug-01@1 on are only here" in problems[1]
    gone = replace(adapters[0], run_id="0" * 32)
    (problem,) = publish(found, [gone], MlflowTracking(home.tracking_uri, home.artifacts))
    assert "does not know run 0000" in problem


def test_what_is_neither_is_exit_3_and_a_base_without_encoders_exit_2(lorafleet, capsys):
    assert lorafleet("nobody") == 3
    assert "'nobody' is neither a submission nor an adapter here" in capsys.readouterr().err
    assert lorafleet("dog-03") == 3
    assert lorafleet("mug-01", "--base", "toy-playground", *FAST) == 2
    assert "was made for base 'toy-sdxl'" in capsys.readouterr().err


def test_words_are_adapters_or_submissions_and_nothing_is_scored_twice(trained):
    home, submission = trained
    found = find([submission[:9], "mug-01", "mug-01@champion"], home, registry(home))
    assert [one.label for one in found.adapters] == ["mug-01@1", "mug-02@1"]
    assert len(found.left_out) == 1
    assert all(read_bundle(one.bundle).card.name == one.spec.adapter for one in found.adapters)
    assert all(one.run_id for one in found.adapters)


def test_pictures_are_the_jobs_own_and_a_changed_one_is_refused(trained, tmp_path):
    home, submission = trained
    adapters = find([submission], home, registry(home)).adapters
    one, two = real_pictures(adapters, 32)
    assert one.training.shape == (4, 3, 32, 32)
    assert (one.name, two.name, one.held_out) == ("mug-01", "mug-02", None)
    twice = real_pictures([adapters[0], adapters[0]], 32)
    assert twice[0] is twice[1]
    spec = adapters[0].spec
    for image in spec.images:
        Image.new("RGB", (9, 9)).save(tmp_path / image.file)
    with pytest.raises(DataError, match=r"00\.png has changed since it was trained on; restore it, or train again"):
        training_pictures(spec.with_changes(folder=str(tmp_path)), 32)


def test_a_home_without_anything_is_told_so(tmp_path):
    home = Home(tmp_path / "none")
    with pytest.raises(NotFoundError, match="neither a submission nor an adapter"):
        find(["cup"], home, registry(home))
    assert not home.root.exists()


def test_an_imported_adapter_has_no_pictures_to_be_scored_by(tmp_path, with_mlflow):
    home, base = Home(with_mlflow(tmp_path / "home")), find_base("toy-sdxl")
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    width = LoadedBase.load(base).lora[UNET].linear["mid_block.attentions.0.proj_in"]
    tensors = {f"{layer}.lora_down.weight": torch.ones(2, width[0]), f"{layer}.lora_up.weight": torch.ones(width[1], 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    import_adapter(Import(file=tmp_path / "style.safetensors", name="style", base=base.name), home)
    with pytest.raises(NotFoundError, match=r"'style' was imported from style\.safetensors: no pictures"):
        find(["style"], home, registry(home))
