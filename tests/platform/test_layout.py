"""The tree itself: what may lie where, what may be imported when, and that every YAML file parses."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lorafleet.config.load import load_manifest

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "ray", "mlflow", "diffusers", "transformers", "fastapi"]


@pytest.mark.parametrize("room", ["platform", "jobs", "serve"])
def test_a_room_holds_no_loose_python(room: str) -> None:
    assert (ROOT / room).is_dir()
    assert list((ROOT / room).glob("*.py")) == []


def test_platform_is_the_standard_librarys() -> None:
    code = "import platform; print(platform.python_version())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.startswith("3.")


def test_the_wheel_has_the_three_packages_and_none_of_the_tools() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["platform/lorafleet", "jobs/lorafleet_jobs", "serve/lorafleet_serve"]
    assert wheel["force-include"] == {"jobs/recipes": "lorafleet_jobs/recipes"}
    tools = {path.name for path in (ROOT / "tools").rglob("*.py")} - {"__init__.py"}
    assert {"make_toy.py", "sdxl_random.py", "denoiser.py"} <= tools
    shipped = [path for package in wheel["packages"] for path in (ROOT / package).rglob("*.py")]
    assert not tools & {path.name for path in shipped}
    imports = re.compile(r"^\s*(from|import) (toy|sdxl_random|make_toy)\b", re.MULTILINE)
    assert [path for path in shipped if imports.search(path.read_text())] == []


def test_the_tool_that_makes_the_toy_world_runs_by_its_path() -> None:
    command = [sys.executable, ROOT / "tools" / "make_toy.py", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "{world,vae,base,judge,report}" in result.stdout


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(
    "module",
    ["lorafleet.config", "lorafleet.config.load", "lorafleet.bases", "lorafleet.cli", "lorafleet.console",
     "lorafleet_jobs.cli.plan_commands", "lorafleet_jobs.intake.prepare"],
)  # fmt: skip
def test_light_modules_stay_light(module: str) -> None:
    assert _loaded_by(f"import {module}") == []


def test_light_work_stays_light(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "m.yaml").write_text("name: m\nsubjects: [{images: photos, class: dog}]\n")
    assert _loaded_by(f"from pathlib import Path\nfrom lorafleet_jobs.intake.prepare import examine\n"
                      f"examine(Path({str(tmp_path / 'm.yaml')!r}))") == []  # fmt: skip


def _loaded_by(code: str) -> list[str]:
    code += f"\nimport json, sys\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Warning" not in result.stderr
    return list(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("file", sorted(ROOT.glob("jobs/**/*.yaml")), ids=lambda file: file.name)
def test_every_yaml_of_jobs_parses(file: Path) -> None:
    if file.parent.name == "examples":
        assert load_manifest(file).subjects
    else:
        assert set(yaml.safe_load(file.read_text())) == {"toy", "real"}
