"""A subject is forgotten: no byte of its photographs and weights is left in the home, and its neighbours are whole."""

import io
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from fingerprints import of_file, of_tensors, pictures, where
from own_lane import jobs_of
from PIL import Image
from safetensors.torch import save_file

from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.cli import build_app, run
from lorafleet.removal.forgotten import read_forgotten
from lorafleet.tracking import MlflowRegistry
from lorafleet.tracking.client import connect
from lorafleet.tracking.removal import MlflowRemoval
from lorafleet_jobs.forget import forgetting
from lorafleet_jobs.images import load_image, look_at
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.status import load_submission, open_store
from lorafleet_jobs.submission.driver_lease import driver_lease
from lorafleet_jobs.submission.submit import record


@pytest.fixture
def lorafleet(here, capsys):
    """lorafleet("forget", "rex") -> exit code, stdout, stderr."""

    def call(*words):
        code = run(build_app(), [str(word) for word in words])
        return (code, *capsys.readouterr())

    return call


def fill_cache(home):
    """Puts every registered bundle into the cache, as a server does that has them only through MLflow."""
    registry = MlflowRegistry(home.tracking_uri, home.adapter_cache)
    for adapter in registry.list():
        version = registry._find(adapter.name, str(adapter.version))
        registry.bundles.get(
            registry._digest(version), lambda folder, v=version: registry._download(v, "adapter", folder)
        )
    return registry


def leave_checkpoint(home, job):
    """What a lane that died leaves of a job."""
    folder = home.checkpoints / job.id / "step-000001"
    folder.mkdir(parents=True)
    shutil.copy(home.bundles / job.id / WEIGHTS, folder / "state.safetensors")


def made_by(home, *jobs):
    """Hashes of the pictures in the runs of jobs."""
    return {look.pixels for job in jobs for look in pictures(next(home.artifacts.glob(f"*/{job.run_id}")))}


def test_nothing_of_a_forgotten_subject_is_left_and_its_neighbours_are_whole(here, trained, photos, lorafleet):
    pets, alone, others = trained("pets", "rex", "mia"), trained("alone", "rex"), trained("others", "tom")
    rex = [jobs_of(here, submission)["rex"] for submission in (pets, alone)]
    registry = fill_cache(here)
    mia = jobs_of(here, pets)["mia"]
    common = (here.bundles / mia.id / WEIGHTS).read_bytes()
    tensors = [part for job in rex for part in of_tensors(here.bundles / job.id / WEIGHTS) if part not in common]
    assert len(tensors) > 100, "what training did not move is the seed's, and every job's of the submission"
    leave_checkpoint(here, rex[0])
    photographs = [look_at(load_image(path)) for path in sorted(photos("rex").glob("*.png"))]
    latents = [part for path in (here.cache / "latents").rglob("*.safetensors") for part in of_tensors(path)]
    texts = [str(photos("rex")).encode(), b"rex's secret number"]
    copied = here.submissions / pets / "driver.log"
    copied.write_text(f"fine\nreading {photos('rex')}/0.png\nfine too\n")
    kinds = {path.parts[len(here.root.parts)] for path in where(here.root, tensors)}
    assert kinds >= {"bundles", "artifacts", "adapter-cache", "checkpoints"}, "the scan finds what is there"
    assert {path.name.removesuffix("-wal") for path in where(here.root, texts)} >= {"jobs.db", "mlflow.db", copied.name}
    made = {look.pixels for look in pictures(here.root)}
    own = made_by(here, *rex) - made_by(here, mia, jobs_of(here, others)["tom"])  # not what the base alone shows

    code, out, err = lorafleet("forget", "rex", "--yes", "--json")
    assert code == 0, err
    assert f"the photographs in {photos('rex')} are yours" in err
    bytes_of_photos = [part for path in photos("rex").glob("*.png") for part in of_file(path)]
    assert where(here.root, tensors + bytes_of_photos + texts) == set()
    left = pictures(here.root)
    assert not any(look.is_near(photograph) for look in left for photograph in photographs)
    assert own <= made
    assert len(own) >= 4, "a preview and a validation picture of each"
    assert own.isdisjoint(look.pixels for look in left)
    mine = {image.sha256 for job in rex for image in job.spec.images}
    kept = set((here.cache / "latents").rglob("*.safetensors"))
    assert kept
    assert len(where(here.root, latents)) == len(kept), "the neighbours' latents are as they were"
    assert mine <= set((here.forgotten / "hashes.txt").read_text().split())

    assert lorafleet("adapters", "verify")[:2] == (0, "mia@1: whole\ntom@1: whole\n")
    assert {version.name for version in registry.list()} == {"mia", "tom"}
    client = connect(here.tracking_uri)
    assert {model.name for model in client.search_registered_models()} == {"mia", "tom"}
    told = json.loads(out)
    removed = {row["kind"]: row for row in told["removed"]}
    assert removed["registered versions"]["count"] == removed["bundles in the cache"]["count"] == 2
    assert removed["runs in MLflow"]["count"] == 2
    assert removed["checkpoints"]["bytes"] > 0
    assert json.loads(Path(told["receipt"]).read_text())["removed"] == told["removed"]

    seen = load_submission(here, pets)
    assert {job.spec.subject: job.state for job in seen.jobs} == {"rex": "forgotten", "mia": "succeeded"}
    assert (seen.state, load_submission(here, alone).state) == ("succeeded", "forgotten")
    assert (here.submissions / pets / "driver.log").read_text() == "fine\nfine too\n"
    report = here.report(pets).read_text()
    assert "forgotten" in report
    parent = client.download_artifacts(seen.row.run_id, "report/index.html")
    assert Path(parent).read_text() == report
    assert load_submission(here, others).state == "succeeded"
    for words in (["status", pets], ["ls"], ["status", alone, "--json"]):
        assert lorafleet(*words)[0] == 0


def test_what_is_trained_mistyped_or_unconfirmed_is_not_forgotten(here, planned, lorafleet, monkeypatch):
    prepared = planned("pets", "rex")
    record(prepared, here)
    submission = prepared.plan.submission
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = lorafleet("forget", "rex", "--yes")
    assert code == 2
    assert f"rex is queued in {submission}, at step 0 of 2; end that first: lorafleet cancel {submission}" in err
    code, _, err = lorafleet("forget", "rxe", "--yes")
    assert (code, "there is no subject 'rxe'; did you mean rex?" in err) == (3, True)
    assert lorafleet("forget", "rex", "--submission", "nobody", "--yes")[0] == 3
    assert lorafleet("cancel", submission)[0] == 0
    code, _, err = lorafleet("forget", "rex")
    assert code == 2
    assert "forget rex: 1 job of pets, no registered version; this cannot be undone" in err
    assert jobs_of(here, submission)["rex"].state == "cancelled"
    with driver_lease(open_store(here), submission):
        code, _, err = lorafleet("forget", "rex", "--yes")
    assert (code, "a lane may still hold it; forget it in" in err) == (4, True)
    assert lorafleet("forget", "rex", "--yes")[0] == 0
    assert jobs_of(here, submission)["rex"].state == "forgotten"
    assert "rex was forgotten; its log is gone" in lorafleet("logs", submission, "rex")[2]
    assert lorafleet("retry", submission)[0] == 0
    assert jobs_of(here, submission)["rex"].state == "forgotten", "nothing is left that could be trained again"


def test_while_mlflow_is_away_nothing_is_forgotten(here, trained, lorafleet, monkeypatch):
    trained("pets", "rex")
    before = {path for path in here.root.rglob("*") if path.is_file()}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        code, _, err = lorafleet("forget", "rex", "--yes")
    assert (code, "does not answer" in err) == (4, True)
    assert {path for path in here.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("where_it_dies", ["remove_run", "remove_empty_name"])
def test_a_second_call_finishes_what_a_crash_left(here, trained, photos, lorafleet, monkeypatch, where_it_dies):
    submission = trained("pets", "rex")
    tensors = of_tensors(here.bundles / jobs_of(here, submission)["rex"].id / WEIGHTS)

    def dies(*_):
        raise InterruptedError

    with monkeypatch.context() as crash:
        crash.setattr(MlflowRemoval, where_it_dies, dies)
        with pytest.raises(InterruptedError):
            forgetting.forget(here, forgetting.find(here, "rex"))
    assert lorafleet("forget", "rex", "--yes")[0] == 0
    assert where(here.root, [*tensors, str(photos("rex")).encode(), b"secret number"]) == set()
    assert MlflowRemoval(here.tracking_uri).runs({jobs_of(here, submission)["rex"].id}) == []
    code, out, _ = lorafleet("forget", "rex", "--yes", "--json")
    assert code == 0, "once more does no harm"
    assert [row["kind"] for row in json.loads(out)["removed"]] == ["rows of jobs, blanked"]


def test_forgotten_photographs_are_left_out_of_plans_until_they_are_asked_for(
    here, trained, planned, photos, lorafleet
):
    submission = trained("pets", "rex")
    assert lorafleet("forget", "rex", "--yes")[0] == 0
    for path in photos("rex").glob("*.png"):  # other bytes, the same picture
        with Image.open(path) as image:
            image.load()
        image.save(path, compress_level=1, dpi=(72, 72))
    (photos("rex") / "0.png").rename(photos("rex") / "9.png")
    (photos("rex") / "0.txt").unlink()
    prepared = planned("both", "rex", "mia", forgotten=read_forgotten(here))
    assert [job.subject for job in prepared.plan.jobs] == ["mia"]
    [skipped] = prepared.plan.skipped
    assert skipped.reason.startswith("D039: 4 photographs were forgotten here (lorafleet forget): ")
    assert skipped.reason.endswith("take them out of the folder, or train on them all the same with --forgotten-too")
    path = here.root.parent / "both.yaml"
    assert lorafleet("check", path)[0] == lorafleet("plan", path)[0] == 1
    assert lorafleet("submit", path, "--dry-run", "--forgotten-too")[0] == 0
    assert load_submission(here, submission).state == "forgotten"


def test_photographs_that_the_home_unpacked_go_too(here, photos, lorafleet, tmp_path):
    for name in ("rex", "mia"):
        shutil.make_archive(str(tmp_path / name), "zip", photos(name))
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "zipped", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": 2}, "validation": {"steps": 1},
        "subjects": [{"name": name, "images": f"{name}.zip", "class": "mug"} for name in ("rex", "mia")],
    }  # fmt: skip
    (tmp_path / "zipped.yaml").write_text(yaml.safe_dump(manifest))
    prepared = prepare(tmp_path / "zipped.yaml")
    record(prepared, here)
    pictures_of = {
        name: [part for file in photos(name).glob("*.png") for part in of_file(file)] for name in ("rex", "mia")
    }
    assert {path.suffix for path in where(here.root, pictures_of["rex"])} == {".png"}
    assert lorafleet("cancel", "zipped", "rex")[0] == 0
    assert lorafleet("forget", "rex", "--yes")[0] == 0
    assert where(here.root, pictures_of["rex"]) == set()
    assert where(here.root, pictures_of["mia"]) != set()


def test_asked_for_again_the_same_submission_is_trained_again(here, trained, lorafleet):
    submission = trained("pets", "rex")
    assert lorafleet("forget", "rex", "--yes")[0] == 0
    assert trained("pets", "rex") == submission  # as --forgotten-too does it
    job = jobs_of(here, submission)["rex"]
    assert (job.state, job.version, len(job.spec.images)) == ("succeeded", 1, 4)
    assert lorafleet("adapters", "verify")[:2] == (0, "rex@1: whole\n")


def test_with_a_submission_named_the_others_keep_what_they_have(here, trained, photos, lorafleet):
    pets, alone = trained("pets", "rex", "mia"), trained("alone", "rex")
    assert lorafleet("forget", "rex", "--submission", "alone", "--yes")[0] == 0
    assert load_submission(here, pets).state == "succeeded"
    assert load_submission(here, alone).state == "forgotten"
    assert sorted(lorafleet("adapters", "verify")[1].splitlines()) == ["mia@1: whole", "rex@1: whole"]
    known = read_forgotten(here)
    assert not any(image.sha256 in known for image in jobs_of(here, pets)["rex"].spec.images)
    assert known, "the weights that went"


def test_an_imported_adapter_is_forgotten_by_its_name(here, lorafleet, tmp_path, with_mlflow):
    tensors = {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.randn(2, 128)}
    tensors |= {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.randn(128, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    words = ("adapters", "import", tmp_path / "style.safetensors", "--name", "style", "--base", "toy-playground")
    code, _, err = lorafleet(*words)
    assert code == 0, err
    needles = of_tensors(tmp_path / "style.safetensors")
    assert where(here.root, needles)
    assert lorafleet("forget", "style", "--yes")[0] == 0
    assert where(here.root, needles) == set()
    assert lorafleet(*words)[0] == 2
