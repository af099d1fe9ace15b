"""A registered adapter as a model that MLflow loads: its pictures are those of `lorafleet generate`."""

import io
import sys

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException
from PIL import Image

from lorafleet.cli import new_app, run
from lorafleet.errors import RequestError
from lorafleet.tracking import JobInfo, MlflowTracking
from lorafleet.tracking.flavour import LOADER
from lorafleet_serve.commands import register


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow, tools, playground):
    """A home with one adapter, rex@champion."""
    home = with_mlflow(tmp_path_factory.mktemp("pyfunc home"))
    tracking = MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    info = JobInfo(
        name="rex", job_id="0" * 16, subject="rex", adapter="rex", params={}, recipe_yaml="", folder="/photos",
        images=5, dataset_fingerprint="f" * 64,
    )  # fmt: skip
    child = tracking.start_job(tracking.start_submission("pets", "0" * 16, {}, "name: pets\n"), info)
    bundle = tools["make_bundle"](home / "bundles", playground.model.base, "rex", tokens=2)
    tracking.log_bundle(child, bundle.path)
    tracking.register(bundle, child)
    return home


@pytest.fixture(scope="module")
def model(home):
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.MonkeyPatch.context() as patch:  # MLflow says its address in the environment too
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        mlflow.set_registry_uri(f"sqlite:///{home / 'mlflow.db'}")
        yield mlflow.pyfunc.load_model("models:/rex@champion")
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_its_pictures_are_those_of_generate(model, home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFLEET_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    app = new_app()
    register(app)
    words = ("a photo of <rex> dog", "--adapter", "rex=0.8", "--seed", "3", "--out", str(tmp_path / "one.png"))
    assert run(app, ["generate", *words]) == 0
    capsys.readouterr()
    made = model.predict({"prompt": "a photo of <rex> dog", "scale": 0.8, "seed": 3})
    assert made["seed"].tolist() == [3]
    assert np.array_equal(pixels(made["png"][0]), pixels((tmp_path / "one.png").read_bytes()))


def test_rows_are_pictures_and_what_a_row_leaves_out_has_a_default(model):
    made = model.predict({"prompt": ["TOK dog"] * 3, "scale": [1.0, 0.0, 1.0], "seed": [0, 0, 1]})
    full, none, other = (pixels(png) for png in made["png"])
    assert not np.array_equal(full, none)
    assert not np.array_equal(full, other)
    plain = model.predict({"prompt": "TOK dog"})
    assert plain["seed"].tolist() == [0]
    assert np.array_equal(pixels(plain["png"][0]), full)


def test_what_cannot_be_meant_is_refused(model):
    with pytest.raises(MlflowException, match="prompt"):
        model.predict({"scale": 1.0})
    with pytest.raises(RequestError, match="scale"):
        model.predict({"prompt": "TOK dog", "scale": 9.0})


def test_the_file_names_a_module_of_serving_that_the_platform_never_imports(home):
    [file] = home.glob("artifacts/**/MLmodel")
    flavour = yaml.safe_load(file.read_text())["flavors"]["python_function"]
    assert flavour["loader_module"] == LOADER == "lorafleet_serve.pyfunc"
    assert callable(sys.modules[LOADER]._load_pyfunc)
    assert not list(home.glob("artifacts/**/*.pkl")), "nothing is pickled"
