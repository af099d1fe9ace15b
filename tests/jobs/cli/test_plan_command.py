"""`check` and `plan` as a user meets them: what they print, and their exit codes."""

import re
from pathlib import Path

import pytest
from commands_here import REX, call, document, manifest, write_subjects
from PIL import Image

from lorafleet_jobs.intake.prepare import prepare


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with two subjects of four pictures each, and an empty one."""
    return write_subjects(tmp_path)


def test_plan_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = manifest(REX, "{images: mimi, class: cat}", more="sweep: {rank: [4, 8]}\nresources: {lanes: 3}\n")
    assert call(here, "plan", text, "--json") == 0
    found = document(capsys)
    keys = {
        "submission",
        "jobs",
        "packs",
        "lanes",
        "estimate",
        "choice",
        "skipped",
        "done",
        "recipes",
        "findings",
        "notes",
    }
    assert set(found) == keys
    assert [set(job) for job in found["jobs"]] == [{"id", "subject", "adapter", "steps"}] * 4
    assert [job["adapter"] for job in found["jobs"]] == ["rex", "rex", "mimi", "mimi"]
    assert [(r["values"]["rank"], r["origins"]["rank"], r["filled_in"]["alpha"]) for r in found["recipes"]] == [
        (4, "sweep", 4), (8, "sweep", 8),
    ]  # fmt: skip
    assert [id for r in found["recipes"] for id in r["jobs"]] == [found["jobs"][i]["id"] for i in (0, 2, 1, 3)]  # noqa: A001
    ids = [job["id"] for job in found["jobs"]]
    assert found["packs"] == [ids[:2], ids[2:]]  # two lanes share three jobs
    assert (found["lanes"], found["skipped"]) == (3, [])
    assert set(found["estimate"]) == {"seconds", "peak_memory_mib", "gpu_hours", "adapters_mb", "price"}
    assert found["estimate"]["seconds"] > 10
    assert 300 < found["estimate"]["peak_memory_mib"] < 4000
    choice = found["choice"]
    assert (choice["pack"], choice["gradient_checkpointing"], choice["precisions"]) == (2, False, ["fp32"])
    assert set(choice["device"]) == {"on_gpu", "mib", "source"}
    assert found["estimate"]["peak_memory_mib"] == choice["peak_memory_mib"] < choice["needed_mib"]


def test_plan_for_people_shows_recipe_cost_and_licence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(here, "plan", manifest(REX, more="recipe: {seed: 7}\nsweep: {rank: [4, 8]}\n")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    out = re.sub(r" +# ", " # ", out)
    for said in ("  seed: 7 # manifest\n", "  pivotal: {tokens: 4, fraction: 0.5} # preset\n", "  rank: 4 # sweep\n",
                 "recipe #2, where it differs from #1\n  rank: 8 # sweep\n  alpha: 8 # default, the rank\n",
                 "learning_rate: 1.0 # default of prodigy\n", "resolution: 32 # default of toy-playground\n",
                 "2 jobs on 1 lane, each training up to 2 at a time\n2 new adapters: about ",
                 "each lane (estimated)\n", "  precision      fp32\n",
                 "  checkpointing  off\n", "  pack           2 jobs at once (auto)\n",
                 "licence apache-2.0"):  # fmt: skip
        assert said in out
    assert "\x1b" not in out


def test_a_sweep_over_a_mixed_fleet_has_the_points_of_one_subject(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = manifest(REX, "{images: mimi, class: cat, recipe: {rank: 3}}", more="sweep: {seed: [1, 2]}\n")
    assert call(here, "plan", text) == 0
    out = re.sub(r" +# ", " # ", capsys.readouterr().out)
    assert "\n2 sweep points, every subject at each\n" in out
    assert "recipe #3, where it differs from #1\n  rank: 3 # subject\n" in out


def test_plan_leaves_bad_subjects_out_and_trains_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = manifest(REX, "{images: mimi}", "{images: nowhere, class: cat}")
    assert call(here, "plan", text, "--json") == 1
    found = document(capsys)
    assert [job["subject"] for job in found["jobs"]] == ["rex"]
    assert [(s["subject"], s["reason"][:4]) for s in found["skipped"]] == [("mimi", "D016"), ("nowhere", "D020")]
    assert call(here, "plan", text) == 1
    assert "skipped: mimi is left out; D016: m.yaml:4:5: no class; add class:" in capsys.readouterr().err


def test_plan_tells_what_the_check_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "rex" / "0.txt").write_text("a dog")
    (here / "mimi" / "bad.jpg").write_text("<html>")
    for n in range(5):
        Image.new("RGB", (9 + n, 9), (40 * n, 0, 0)).save(here / "mimi" / f"low{n}.png")
    text = manifest(REX, "{images: mimi, class: cat}", "{images: nowhere}")
    assert call(here, "plan", text) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: rex: D011: 1 of 4 captions lack TOK, the word to be learned (0.txt); write it in"
    assert said[1].startswith("warning: mimi: D002: bad.jpg does not hold a JPEG")
    assert sum("D004" in line for line in said) == 1  # five of one kind
    assert next(line for line in said if "D004" in line).endswith(
        "(and 4 more of D004, of mimi; lorafleet check lists them)"
    )
    assert said[-2].startswith("warning: nowhere: D020: m.yaml:5:14: no folder 'nowhere'")
    assert said[-1].startswith("skipped: nowhere is left out; D016: m.yaml:5:5: no class")
    assert call(here, "plan", text, "--json") == 1
    findings = document(capsys)["findings"]
    assert [(f["subject"], f["id"]) for f in findings][:2] == [("rex", "D011"), ("mimi", "D002")]
    assert [f["id"] for f in findings if f["subject"] == "nowhere"] == ["D016", "D020"]


def test_every_subject_that_is_missing_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.delenv("PETS", raising=False)
    wanted = ["~/dog", "$HOME/cat", "$PETS/bird", "C:\\\\Users\\\\me\\\\dog", "photos\\\\rex"]
    text = manifest(*(f'{{name: s{n}, images: "{images}", class: dog}}' for n, images in enumerate(wanted)))
    (here / "photos").mkdir()
    (here / "rex").rename(here / "photos" / "rex")
    assert call(here, "plan", text, "--json") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"s0: D020: m.yaml:3:24: no folder '~/dog' ({here}/dog)" in err
    assert f"s1: D020: m.yaml:4:24: no folder '$HOME/cat' ({here}/cat)" in err
    assert "s2: D020: m.yaml:5:24: no folder '$PETS/bird'" in err
    assert "the variable PETS is not set here" in err
    assert "that is a path of Windows, and this is not; give one of this machine" in err
    assert "did you mean 'photos/rex'?" in err


def test_home_and_variables_are_expanded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETS", str(here))
    monkeypatch.setenv("HOME", str(here))
    text = manifest(
        "{images: $PETS/rex, class: dog}", '{glob: "~/mi*", class: cat}', '{glob: "${PETS}/emp*", class: x}'
    )
    assert call(here, "check", text, "--json") == 1
    subjects = document(capsys)["subjects"]
    assert [(one["name"], one["images"]) for one in subjects] == [("rex", 4), ("mimi", 4), ("empty", 0)]


def test_a_name_with_a_dollar_means_itself_where_it_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETS", "nowhere")
    (here / "rex").rename(here / "$PETS")
    assert call(here, "check", manifest("{name: rex, images: $PETS, class: dog}"), "--json") == 0


BAD = [
    (manifest(REX, more="recipee: {}\n"), "unknown key 'recipee'; did you mean 'recipe'?"),
    (manifest(REX, more="recipe: {stepz: 3}\n"), "unknown key 'recipe.stepz'; did you mean 'recipe.steps'?"),
    (manifest(REX, more="sweep: {rnk: [3]}\n"), "unknown key 'sweep.rnk'; did you mean 'sweep.rank'?"),
    (manifest(REX, more="base: toy-sdlx\n"), "base 'toy-sdlx' is not here. Allowed: toy-sdxl,"),
    (manifest(REX, more="base: models/sdxl/fp16\n"), "models/sdxl/fp16' is not here: there is no folder /"),
    (manifest(REX, more="base: https://huggingface.co/a/sdxl\n"), "is a URL, and nothing is downloaded from one"),
    (manifest(REX, more="base: a/sdxl/\n"), "'a/sdxl' would be a hub id"),
    (manifest(REX, more="base: m.yaml\n"), "base 'm.yaml' is a file, and a base is a folder; make one of it once"),
    (manifest(REX, more="recipe: {clip_skip: 2}\n"), "unknown key 'recipe.clip_skip'; SDXL-shaped bases are"),
    (manifest(REX, more="recipe: {objective: edm}\n"), "recipe.objective is edm, but base toy-playground is trained"),
    (
        manifest(REX, more="sweep: {lr_scheduler: [linear], lr_cycles: [1, 2]}\n"),
        "m.yaml:4:48: sweep point {lr_scheduler: linear, lr_cycles: 2}: recipe.lr_cycles is 2, but linear has none",
    ),
    (manifest(REX, more="recipe: {steps: 30, warmup_steps: 30}\n"), "warmup_steps is 30, but rex trains for 30 steps"),
    ("", "m.yaml is empty; it needs at least name and subjects"),
]
HOPELESS = [
    (manifest("{images: rexx, class: dog}"), "D020: m.yaml:3:14: no folder 'rexx'"),
    (manifest("{images: empty, class: dog}"), "D001: m.yaml:3:14: no readable image in 'empty'"),
    (manifest("{images: rex}"), "D016: m.yaml:3:5: no class; add class:"),
    (manifest(REX, "{name: rex, images: mimi, class: cat}"), "D019: m.yaml:3:12: 2 subjects are called 'rex'"),
    (
        manifest("{images: rex, class: dog, instance_prompt: a dog}"),
        "D011: m.yaml:3:48: instance prompt 'a dog' lacks",
    ),
]


@pytest.mark.parametrize(("text", "said"), BAD)
@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_bad_manifest_is_exit_2_and_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, text: str, said: str
) -> None:
    assert call(here, command, text, "--json") == 2
    _is_one_error(capsys, said)


@pytest.mark.parametrize(("text", "said"), HOPELESS)
def test_nothing_to_train_is_a_finding_or_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert call(here, "check", text, "--json") == 1
    findings = [f for s in document(capsys)["subjects"] for f in s["findings"]]
    assert any(f"{f['id']}: {f['message']}".startswith(said) for f in findings)
    assert call(here, "plan", text, "--json") == 2
    _is_one_error(capsys, said)


def _is_one_error(capsys: pytest.CaptureFixture[str], said: str) -> None:
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert said in err
    assert err.count("\n") == 1


def test_without_learned_tokens_a_prompt_needs_no_tok(here: Path) -> None:
    text = manifest("{images: rex, class: dog, instance_prompt: a dog}", more="recipe: {pivotal: null}\n")
    assert call(here, "plan", text, "--json") == 0


@pytest.mark.parametrize("name", ["./base", "base", "models/base"])
def test_a_relative_base_is_found_beside_the_manifest(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from lorafleet.bases import find_base

    (here / name).parent.mkdir(exist_ok=True)
    (here / name).symlink_to(find_base("toy-sdxl").path)
    (here / "m.yaml").write_text(manifest(REX, more=f"base: {name}\n"))
    monkeypatch.chdir("/")
    prepared = prepare(here / "m.yaml")
    assert prepared.base.fingerprint == find_base("toy-sdxl").fingerprint
    assert find_base(prepared.plan.jobs[0].base).path == prepared.base.path  # from wherever a lane stands
    assert prepared.manifest.base == prepared.base.name


def test_home_and_variables_are_expanded_in_every_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorafleet.bases import find_base

    (here / "models").mkdir()
    (here / "models" / "base").symlink_to(find_base("toy-sdxl").path)
    (here / "cats").mkdir()
    for n in range(2):
        (here / "cats" / f"{n}.png").write_bytes((here / "mimi" / f"{n}.png").read_bytes())
    (here / "pets.csv").write_text("path,class\n$PLACE/rex,dog\n~/mimi,cat\n")
    monkeypatch.setenv("PLACE", str(here))
    monkeypatch.setenv("HOME", str(here))
    text = """name: a
base: $PLACE/models/base
recipe: {prior: {mode: images, images: ~/cats}}
subjects: {from: $PLACE/pets.csv}
"""
    (here / "m.yaml").write_text(text)
    prepared = prepare(here / "m.yaml")
    assert prepared.base.fingerprint == find_base("toy-sdxl").fingerprint
    assert [(job.subject, job.folder) for job in prepared.plan.jobs] == [
        ("rex", str(here / "rex")), ("mimi", str(here / "mimi")),
    ]  # fmt: skip
    assert all(job.class_images is not None for job in prepared.plan.jobs)


def test_a_relative_base_of_the_command_line_is_found_where_one_stands(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorafleet.bases import find_base

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine").symlink_to(find_base("toy-sdxl").path)
    (here / "m.yaml").write_text(manifest(REX))
    monkeypatch.chdir(elsewhere)
    assert prepare(here / "m.yaml", "mine").base.path == find_base("toy-sdxl").path.resolve()
