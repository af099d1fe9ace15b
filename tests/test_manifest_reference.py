"""The page and the schema of manifests are what the models say, and the schema agrees with the models."""

import re
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from lorafleet.config import Manifest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import manifest_reference  # noqa: E402

EXAMPLES = sorted((ROOT / "jobs" / "examples").glob("*.yaml"))


def test_page_and_schema_are_up_to_date():
    assert manifest_reference.PAGE.read_text("utf-8") == manifest_reference.page(), "run tools/manifest_reference.py"
    assert manifest_reference.SCHEMA.read_text("utf-8").rstrip() == manifest_reference.schema_text().rstrip()


def test_every_key_says_what_it_means():
    schema = manifest_reference.schema()
    for name, definition in [("Manifest", schema), *schema["$defs"].items()]:
        for key, field in definition.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


class Editors(yaml.SafeLoader):
    """YAML 1.2, as editors read it: there `1e-5` is a number, which it is not in PyYAML's 1.1."""


Editors.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9.]+e[-+]?[0-9]+"), list("-+.0123456789"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_are_of_the_schema(file):
    document = yaml.load(file.read_text(), Editors)
    jsonschema.Draft202012Validator(manifest_reference.schema()).validate(document)


@pytest.mark.parametrize(
    "recipe",
    [{"rank": 0}, {"rnak": 4}, {"optimizer": "adam"}, {"pivotal": {"tokens": 9}}, {"caption": {"shuffle": "yes"}}],
    ids=str,
)
def test_what_the_models_refuse_the_schema_refuses(recipe):
    document = {"name": "pets", "recipe": recipe, "subjects": [{"images": "a"}]}
    assert not jsonschema.Draft202012Validator(manifest_reference.schema()).is_valid(document)


@pytest.mark.parametrize(
    "recipe",
    [{"text_encoder_lora": True}, {"sigma_sampler": "lognormal"}, {"steps": "120/image"}, {"pivotal": None},
     {"targets": ["to_q"]}, {"preset": "face", "rank": 16}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "sweep",
    [{"rank": [4, 8]}, {"points": [{"rank": 4}]}, {"random": {"count": 2, "space": {"rank": {"choice": [4]}}}}],
    ids=["grid", "points", "random"],
)
def test_what_the_models_take_the_schema_takes(recipe, sweep):
    document = {"name": "pets", "recipe": recipe, "sweep": sweep, "subjects": [{"glob": "a/*", "class": "dog"}]}
    Manifest.model_validate(document)
    jsonschema.Draft202012Validator(manifest_reference.schema()).validate(document)
