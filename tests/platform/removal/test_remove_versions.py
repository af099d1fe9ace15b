"""Versions removed with all that lies of them; their names' aliases and neighbours stay as they should."""

import fcntl
import io
import json
import socket

import pytest
from tracked_jobs import bundle_at, job

from lorafleet.bundle.disk_cache import BundleCache
from lorafleet.errors import BusyError, NotFoundError, UnreachableError
from lorafleet.home import Home
from lorafleet.removal import versions as removing
from lorafleet.removal.receipt import Receipt
from lorafleet.removal.versions import remove_versions
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet.tracking.removal import MlflowRemoval


@pytest.fixture
def here(tmp_path, with_mlflow):
    return Home(with_mlflow(tmp_path / "home"))


@pytest.fixture
def publish(here):
    """publish(name, letter): a job's bundle in the home, in MLflow, in the cache, and registered."""
    tracking = MlflowTracking(f"sqlite:///{here.root / 'mlflow.db'}", here.artifacts)
    parent = tracking.start_submission("pets", "s" * 16, {}, "name: pets\n")

    def make(name, letter, policy="first"):
        run = tracking.start_job(parent, job(name, job_id=letter * 16))
        bundle = bundle_at(here.bundles / (letter * 16), name, letter * 16)
        tracking.log_bundle(run, bundle.path)
        version = tracking.register(bundle, run, policy)
        registry = MlflowRegistry(tracking.uri, here.adapter_cache)
        [registered] = [one for one in removal(here).versions(name) if one.job_id == letter * 16]
        registry.bundles.get(registered.digest, lambda folder: registry._download(registered, "adapter", folder))
        return version

    return make


def removal(here):
    return MlflowRemoval(f"sqlite:///{here.root / 'mlflow.db'}")


def left(here):
    """Job ids that any file of the home's folders still tells of."""
    cards = [*here.root.rglob("adapter.json")]
    return sorted({json.loads(card.read_text())["job_id"][0] for card in cards}), len(cards)


def test_a_version_goes_from_every_place_and_its_neighbours_stay(here, publish):
    for name, letter in (("rex", "a"), ("rex", "b"), ("mia", "c")):
        publish(name, letter)
    assert left(here) == (["a", "b", "c"], 9)
    mlflow, receipt = removal(here), Receipt()
    said = remove_versions(here, mlflow, mlflow.find("rex", "1"), receipt)
    assert said == ["rex has no champion now; choose one: lorafleet adapters promote rex@2"]
    assert left(here) == (["b", "c"], 6)
    assert {row.kind: row.count for row in receipt.rows} == {
        "bundles in MLflow": 3, "bundles": 1, "bundles in the cache": 1, "registered versions": 1,  # 3 files
    }  # fmt: skip
    assert all(row.bytes > 0 for row in receipt.rows[:3])
    model = mlflow.client.get_registered_model("rex")
    assert (dict(model.aliases), model.tags) == ({"challenger": 2}, {}), "no alias dangles, and no tag claims one"
    assert publish("rex", "d").aliases == ("champion",), "the next version is settled as the first one was"
    with pytest.raises(NotFoundError, match=r"no version or alias '1'.*@2 \(challenger\), @3 \(champion\)"):
        mlflow.find("rex", "1")


def test_a_champion_that_a_person_chose_leaves_nothing_that_holds_back_the_next(here, publish):
    publish("rex", "a")
    publish("rex", "b")
    MlflowTracking(removal(here).uri, here.artifacts).promote("rex", 2)
    remove_versions(here, removal(here), removal(here).find("rex", "champion"), Receipt())
    assert [str(one) for one in removal(here).versions("rex")] == ["rex@1"]
    assert publish("rex", "c").aliases == ("champion",)


def test_with_the_last_version_the_name_goes(here, publish):
    publish("rex", "a")
    said = remove_versions(here, removal(here), removal(here).find("rex"), Receipt())
    assert said == ["rex was champion; no version of it is left"]
    assert removal(here).names() == []
    assert left(here) == ([], 0)
    publish("mia", "b")
    with pytest.raises(NotFoundError, match="did you mean mia"):
        removal(here).find("mya")


@pytest.mark.parametrize("method", ["remove_bundle", "remove_version"])
def test_a_second_call_finishes_what_a_crash_left(here, publish, monkeypatch, method):
    publish("rex", "a")

    def dies(*_):
        raise InterruptedError

    with monkeypatch.context() as crash:
        crash.setattr(MlflowRemoval, method, dies)
        with pytest.raises(InterruptedError):
            remove_versions(here, removal(here), removal(here).find("rex"), Receipt())
    remove_versions(here, removal(here), removal(here).find("rex"), Receipt())
    assert (left(here), removal(here).names()) == (([], 0), [])


def test_while_mlflow_is_away_nothing_is_touched(here, publish):
    publish("rex", "a")
    [version] = removal(here).find("rex")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = MlflowRemoval(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UnreachableError, match="does not answer"):
            remove_versions(here, away, [version], Receipt())
    assert left(here) == (["a"], 3)


def test_a_bundle_that_is_being_read_is_waited_for_and_then_named(here, publish, monkeypatch):
    publish("rex", "a")
    monkeypatch.setattr(removing, "WAIT_SECONDS", 0.3)
    [entry] = BundleCache(here.adapter_cache).entries()
    with (here.adapter_cache / ".locks" / f"{entry.digest}.pin").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)  # as another process's request does
        with pytest.raises(BusyError, match="repeat the command"):
            remove_versions(here, removal(here), removal(here).find("rex"), Receipt())
    remove_versions(here, removal(here), removal(here).find("rex"), Receipt())
    assert (left(here), removal(here).names()) == (([], 0), [])


@pytest.mark.parametrize("tag", ["../outside", "..", "/etc", "*", "."])
def test_a_tag_that_is_no_job_deletes_nothing_outside_the_bundles(here, publish, tag):
    publish("rex", "a")
    (here.root / "outside").mkdir()
    mlflow, before = removal(here), left(here)
    mlflow.client.set_model_version_tag("rex", "1", "job_id", tag)
    removing.remove_bundles(here, [one.job_id for one in mlflow.find("rex")], Receipt())
    assert (left(here), (here.root / "outside").is_dir()) == (before, True)


def test_the_command_asks_and_prints_what_went(lorafleet, tmp_path, capsys, monkeypatch):
    home = Home(tmp_path / "home")
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    run = tracking.start_job(tracking.start_submission("pets", "s" * 16, {}, "name: pets\n"), job())
    bundle = bundle_at(home.bundles / ("a" * 16))
    tracking.log_bundle(run, bundle.path)
    tracking.register(bundle, run)
    assert lorafleet("adapters", "rm", "rxe") == 3
    assert "did you mean rex" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert lorafleet("adapters", "rm", "rex") == 2
    assert "repeat it with --yes" in capsys.readouterr().err
    assert bundle.path.exists()
    assert lorafleet("adapters", "rm", "rex@1", "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"] == ["rex@1"]
    assert [row["kind"] for row in told["removed"]] == ["bundles in MLflow", "bundles", "registered versions"]
    assert not bundle.path.exists()
