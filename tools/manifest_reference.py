"""Writes the reference of manifests from their models: a page for people, and a JSON schema for editors.

    python tools/manifest_reference.py          docs/manifest.md and platform/lorafleet/config/manifest.schema.json

A test fails if they are not what this would write. Knows pydantic's JSON schemas; every sentence is the models' own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorafleet.config import Manifest, Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "manifest.md"
SCHEMA = ROOT / "platform" / "lorafleet" / "config" / "manifest.schema.json"
INTRODUCTION = """\
# The manifest, key by key

One YAML file says what is trained: which photos, on which base, how, and on what. `lorafleet init PHOTOS/` writes one;
`lorafleet check` and `lorafleet plan` say what would come of it. This page is made from the code by
`python tools/manifest_reference.py`. What each preset sets: [recipes.md](recipes.md). Sweeps: [sweeps.md](sweeps.md).

```yaml
apiVersion: lorafleet/v1alpha1
name: pets
base: sdxl
recipe: {preset: object, rank: 16}
subjects:
  - {images: photos/rex, class: dog}          # one folder, one adapter
  - {glob: "photos/cats/*", class: cat}       # an adapter for each folder
  - {glob: "photos/{class}-{name}"}           # photos/mug-blue is a mug called blue
  - {from: subjects.csv}                      # a table: images;class;name, a subject in each row
```

Subjects of several kinds in one manifest: `defaults` says what is other for a class, a subject's `recipe` what is other
for it alone. A preset's name, or keys; a mapping over a mapping leaves alone what it does not name.

```yaml
recipe: {preset: object, seed: 7}
defaults: {person: face, style: {preset: style, rank: 32}}
subjects:
  - {images: photos/ada, class: person, recipe: {steps: 1500}}
  - {images: photos/mug, class: mug}
  - {images: photos/ink, class: style}
```

Who wins, from the lowest: the preset, `recipe`, `defaults` of the class, the subject's `recipe`, the `sweep`.
`lorafleet plan` shows each recipe and where each value comes from.

Paths are relative to the manifest; `~` and `$VARIABLES` are expanded. An editor with a YAML language server completes
and checks keys if the file begins with the line that `lorafleet init` writes. The defaults of `recipe` hold where the
preset says nothing.
"""
SECTIONS = (
    ("Manifest", "The file"),
    ("SubjectSpec", "subjects"),
    ("Recipe", "recipe"),
    ("PivotalSpec", "recipe.pivotal"),
    ("TextEncoderLora", "recipe.text_encoder_lora"),
    ("SigmaSampler", "recipe.sigma_sampler"),
    ("OptimizerOptions", "recipe.optimizer_options"),
    ("CaptionSpec", "recipe.caption"),
    ("PriorSpec", "recipe.prior"),
    ("Resources", "resources"),
    ("Validation", "validation"),
    ("EarlyStop", "early_stop"),
    ("RandomDraws", "sweep.random"),
    ("Notify", "notify"),
)
"""Models, and the keys of the manifest under which they stand."""
KINDS = {
    "integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null",
    "object": "mapping",
}  # fmt: skip
UNBOUNDED = 1e9
"""A bound beyond this is one of the computer's."""


def schema() -> dict[str, Any]:
    """The JSON schema of a manifest, whose recipe has the keys of `Recipe`."""
    made: dict[str, Any] = Manifest.model_json_schema(by_alias=True)
    recipe = Recipe.model_json_schema(by_alias=True)
    definitions = {**made.pop("$defs"), **recipe.pop("$defs")}
    for inner in [recipe, *definitions.values()]:
        for field in inner.get("properties", {}).values():
            field.pop("title", None)
    recipe["properties"]["text_encoder_lora"]["anyOf"].append({"type": "boolean"})
    recipe["properties"]["sigma_sampler"]["anyOf"].append(
        {"enum": definitions["SigmaSampler"]["properties"]["name"]["enum"]}
    )
    described = made["properties"]["recipe"]["description"]
    made["properties"]["recipe"] = {"$ref": "#/$defs/Recipe", "description": described}
    definitions["Recipe"] = recipe
    partly = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Recipe"}]}
    made["properties"]["defaults"]["additionalProperties"] = partly
    listed = made["properties"]["subjects"]
    described = {"description": listed.pop("description")}
    made["properties"]["subjects"] = {"anyOf": [listed, listed["items"]], **described}
    definitions["SubjectSpec"]["properties"]["recipe"]["anyOf"] = [*partly["anyOf"], {"type": "null"}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The page: one table for each model."""
    whole = schema()
    parts = [INTRODUCTION]
    for model, title in SECTIONS:
        definition = whole if model == "Manifest" else whole["$defs"][model]
        parts.append("\n".join(section(title, definition, whole["$defs"])))
    return "\n".join(parts)


def section(title: str, definition: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one model's table."""
    yield f"## {title if title == 'The file' else f'`{title}`'}\n"
    yield f"{_line(definition['description'].partition(chr(10) * 2)[0])}\n"
    yield "| key | value | default | what it means |\n|---|---|---|---|"
    for key, field in definition["properties"].items():
        default = "required" if key in definition.get("required", ()) else _default(field)
        yield f"| `{key}` | {kind_of(field, definitions)} | {default} | {_line(field['description'])} |"
    yield ""


def kind_of(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, in words of YAML."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        section_of = dict(SECTIONS)
        return f"[mapping](#{section_of[name].replace('.', '')})" if name in section_of else "mapping"
    if "anyOf" in field:
        kinds = dict.fromkeys(kind_of(each, definitions) for each in field["anyOf"])
        if field.get("default") is None:
            kinds.pop("null", None)  # to leave the key out is the same
        return "; or ".join(kinds)
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("items") or (field.get("prefixItems") or [{"type": "string"}])[0]
        return f"list of {kind_of(items, definitions)}" if items else "list"
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
        "object": "mapping",
    }
    return f"{names[field['type']]}{_bounds(field)}"


def _bounds(field: Mapping[str, Any]) -> str:
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    told = [f"{word} {field[key]:g}" for key, word in words if key in field and abs(field[key]) < UNBOUNDED]
    if "minimum" in field and "maximum" in field:
        told = [f"{field['minimum']:g} to {field['maximum']:g}"]
    return "".join(f", {each}" for each in told)


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field or field["default"] is None:
        return "none"
    value = field["default"]
    if isinstance(value, dict | list) and not value:
        return "empty"
    if isinstance(value, dict):
        return "its own"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`" if value else '`""`'


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Writes both files."""
    PAGE.write_text(page(), "utf-8")
    SCHEMA.write_text(schema_text(), "utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n{SCHEMA.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
