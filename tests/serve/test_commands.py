"""`lorafleet generate` and `serve` as a user runs them, and the registry of folders."""

import hashlib
import json

import pytest
import yaml
from PIL import Image
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from lorafleet.bundle.folder_registry import version_of
from lorafleet.cli import new_app, run
from lorafleet.errors import BundleError, NotFoundError
from lorafleet_serve.commands import register
from lorafleet_serve.replicas import deployment
from lorafleet_serve.replicas.ray_policies import AffinityRouter, RowsPolicy
from lorafleet_serve.replicas.serve_args import ServeArgs


@pytest.fixture
def lorafleet(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    app = new_app()
    register(app)
    return lambda *arguments: run(app, arguments)


def test_generate_writes_a_png_and_tells_the_seed(lorafleet, tmp_path, bundle_root, capsys):
    folder = bundle_root / "toy-sdxl" / "dog-rex"
    code = lorafleet(
        "generate", "<dog-rex> on a beach", "--adapter", f"{folder}=0.8", "--steps", "2", "--seed", "5",
        "--out", "made/one.png", "--json",
    )  # fmt: skip
    assert code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(tmp_path / "made" / "one.png")
    assert (document["base"], document["seed"]) == ("toy-sdxl", 5)
    assert document["adapters"] == [{"name": "dog-rex", "version": 1, "scale": 0.8, "run_id": "run-dog-rex"}]
    with Image.open(document["path"]) as image:
        assert json.loads(image.text["lorafleet"])["seed"] == 5
        first = image.tobytes()
    assert (
        lorafleet("generate", "<dog-rex> on a beach", "--adapter", f"{folder}=0.8", "--steps", "2", "--seed", "5") == 0
    )
    assert capsys.readouterr().out == "lorafleet-5.png (seed 5)\n"
    with Image.open(tmp_path / "lorafleet-5.png") as image:
        assert image.tobytes() == first


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("--steps", "0"), 2, "steps is 0; it must be at least 1"),
    (("--adapter", "Dog!"), 2, "dog-rex@champion=0.8"),
    (("--adapter", "./nothing"), 2, "adapter.json"),
    (("--adapter", "nobody"), 3, "nobody"),
    (("--base", "no-such-base"), 2, "toy-playground"),
    (("--scheduler", "ddim"), 2, "edm-dpmpp-2m, edm-euler"),
    (("--base", "toy-sdxl", "--scheduler", "lcm", "--steps", "51"), 2, "allowed are 1 to 50 with scheduler 'lcm'"),
    (("--guidance-rescale", "2"), 2, "guidance_rescale is 2.0; it must be at most 1"),
    (("--clip-skip", "3"), 2, "clip_skip is 3; allowed are 0 to 2"),
    (("--negative", "(blurry:9)"), 2, "allowed are 0 to 4"),
    (("--width", "33"), 2, "multiples of 8"),
], ids=str)  # fmt: skip
def test_generate_s_mistakes_are_one_line_and_a_code(lorafleet, tmp_path, capsys, arguments, code, says):
    assert lorafleet("generate", "a dog", *arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.png"))


def test_generate_takes_weights_long_prompts_and_every_knob(lorafleet, capsys):
    def make(*arguments):
        words = ("a (red:1.4) dog " * 12, "--base", "toy-sdxl", "--steps", "3", "--seed", "5", "--scheduler", "tcd")
        assert lorafleet("generate", *words, "--json", *arguments) == 0
        document = json.loads(capsys.readouterr().out)
        with Image.open(document["path"]) as image:
            return document, image.tobytes()

    knobs = ("--negative", "blurry", "--guidance-rescale", "0.7", "--clip-skip", "1")
    document, first = make(*knobs)
    assert (document["scheduler"], document["negative_prompt"]) == ("tcd", "blurry")
    assert (document["guidance_rescale"], document["clip_skip"], document["time_ids"]) == (
        0.7,
        1,
        [32, 32, 0, 0, 32, 32],
    )
    assert make(*knobs)[1] == first
    for i in (0, 2, 4):
        assert make(*knobs[:i], *knobs[i + 2 :])[1] != first, knobs[i]


def test_generate_begins_from_a_picture(lorafleet, tmp_path, capsys):
    picture = tmp_path / "photo.jpg"
    Image.linear_gradient("L").convert("RGB").save(picture)
    left = Image.new("L", (256, 256))
    left.paste(255, (0, 0, 128, 256))
    left.save(tmp_path / "mask.png")

    def make(*arguments):
        words = ("generate", "a dog", "--base", "toy-sdxl", "--steps", "4", "--seed", "5", "--json")
        assert lorafleet(*words, "--init-image", "photo.jpg", *arguments) == 0
        document = json.loads(capsys.readouterr().out)
        with Image.open(document["path"]) as image:
            return document, image.tobytes()

    document, whole = make("--strength", "0.5")
    assert document["init_image_sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert (document["strength"], document["size"]) == (0.5, "32x32")
    assert make()[0]["strength"] == 0.6
    masked, part = make("--mask", "mask.png")
    assert (masked["strength"], masked["size"]) == (1.0, "32x32")
    assert part != whole
    assert make("--width", "48")[0]["size"] == "48x32"


@pytest.mark.parametrize(("arguments", "says"), [
    (("--strength", "0.5"), "name it with --init-image"),
    (("--mask", "photo.png"), "name it with --init-image"),
    (("--init-image", "nothing.png"), "nothing.png cannot be read (No such file or directory)"),
    (("--init-image", "text.png"), "text.png is no PNG, JPEG or WebP"),
    (("--init-image", "photo.png", "--mask", "small.png"), "the mask has 16 x 16 pixels and the picture 32 x 32"),
    (("--init-image", "photo.png", "--strength", "0.1", "--steps", "4"), "leaves none of 4 steps to take"),
    (("--init-image", "photo.png", "--strength", "2"), "strength is 2"),
    (("--init-image", "photo.png", "--width", "33"), "multiples of 8"),
], ids=str)  # fmt: skip
def test_mistakes_about_pictures_are_one_line(lorafleet, tmp_path, capsys, arguments, says):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    Image.new("L", (16, 16)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("hello")
    assert lorafleet("generate", "a dog", *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("lorafleet-*.png"))


def test_adapters_of_two_bases_do_not_mix(lorafleet, bundle_root, capsys):
    one, two = (str(bundle_root / base / "plain") for base in ("toy-sdxl", "toy-playground"))
    assert lorafleet("generate", "a", "--adapter", one, "--adapter", two) == 2
    assert "toy-playground and toy-sdxl" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("serve",), ("generate", "a dog")])
@pytest.mark.parametrize(
    ("base", "says"), [("no-such-base", "toy-playground"), ("models/sdxl/fp16", "there is no folder /")]
)
def test_an_unknown_base_is_refused_before_anything_is_started(lorafleet, capsys, command, base, says):
    assert lorafleet(*command, "--base", base) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_folder_registry(registry, tmp_path):
    assert [adapter.name for adapter in registry.list()] == ["dog-rex", "dora", "few-steps", "half", "mug-red", "plain"]
    for version in (None, "1", "champion"):
        assert registry.resolve("mug-red", version).path == registry.root / "mug-red"
    with pytest.raises(NotFoundError, match="dog-rex, dora, few-steps, half, mug-red, plain"):
        registry.resolve("mug-red", "2")
    with pytest.raises(BundleError, match=r"adapter\.json"):
        version_of(tmp_path)


def test_serve_yaml_is_what_ray_and_the_builder_accept(request):
    text = (request.config.rootpath / "serve" / "serve.yaml").read_text()
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    module, _, attribute = application.import_path.partition(":")
    assert module == deployment.__name__
    built = call_user_app_builder_with_args_if_necessary(getattr(deployment, attribute), application.args)
    assert built._bound_deployment.name == "ingress"
    engine, *_ = built._bound_deployment.init_args
    assert engine._bound_deployment.num_replicas == application.args["replicas"]


def engine_of(**arguments):
    engine, *_ = deployment.build(ServeArgs(**arguments))._bound_deployment.init_args
    return engine._bound_deployment


def test_an_engine_takes_more_requests_than_it_runs_and_shares_gpus_where_told():
    engine = engine_of(max_rows=4, max_queue=10, device="cuda", gpus_per_replica=0.5)
    assert engine.max_ongoing_requests > 14, "the engine itself refuses, with its own estimate"
    assert engine.ray_actor_options["num_gpus"] == 0.5
    assert engine_of(device="cpu").ray_actor_options["num_gpus"] == 0
    router = engine._deployment_config.request_router_config
    assert router.request_router_kwargs == {"room": 4}
    assert router.get_request_router_class() is AffinityRouter


def test_replicas_are_fixed_unless_more_are_allowed():
    assert engine_of(replicas=3).num_replicas == 3
    scaling = engine_of(replicas=2, max_replicas=5, max_rows=4)._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert (scaling.policy.get_policy(), scaling.policy.policy_kwargs) == (RowsPolicy, {"room": 4})


def test_jobs_use_what_the_engines_can_run_and_tell_whom_the_operator_allows():
    args = ServeArgs(max_rows=4, replicas=2, max_replicas=3, webhook_hosts=("hooks.internal", "[::1]:80"))
    *_, limits = deployment.build(args)._bound_deployment.init_args
    assert (limits.images_at_once, limits.webhook_hosts) == (12, ("hooks.internal", "[::1]:80"))


@pytest.mark.parametrize(("arguments", "says"), [
    (("--max-replicas", "1", "--replicas", "2"), "max_replicas is 1"),
    (("--gpus-per-replica", "0"), "gpus_per_replica is 0"),
    (("--max-step-ms", "-1"), "max_step_ms is -1"),
    (("--max-step-ms", "50", "--exact"), "max_step_ms does not fit exact"),
    (("--webhook-host", "http://hooks.internal/x"), "without http://"),
], ids=str)  # fmt: skip
def test_serve_refuses_what_cannot_be_before_starting_anything(lorafleet, capsys, arguments, says):
    assert lorafleet("serve", *arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_builder_refuses_unknown_arguments():
    with pytest.raises(ValueError, match="max_row"):
        call_user_app_builder_with_args_if_necessary(deployment.build, {"max_row": 3})
