"""The base of everything a user writes: frozen, closed, and helpful about misspellings."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lorafleet.errors import LorafleetError, ManifestError

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    def with_changes(self, **changes: Any) -> Self:
        """A validated copy with some fields replaced."""
        return type(self).model_validate({**self.model_dump(), **changes})


def parse(model: type[Model], data: object, where: str, error: type[LorafleetError] = ManifestError) -> Model:
    """Validates `data`; the first problem becomes one line that says what, where and what to do."""
    try:
        return model.model_validate(data)
    except ValidationError as problem:
        raise error(f"{where}: {describe(problem, model, data)}") from None


def describe(problem: ValidationError, model: type[BaseModel], data: object) -> str:
    """The first validation error in words: its path, the value, what is allowed, the nearest known key.

    An unknown key comes first: where one is misspelt, another seems to be missing.
    """
    errors = problem.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    more = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        known = _known_keys(model, parents)
        near = get_close_matches(str(key), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"unknown key {path!r}; {remedy}{more}"
    if first["type"] == "missing":
        return f"{path!r} is missing; add it{more}"
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):  # its keys disagree
        return f"{path}: {said}{more}" if path else f"{said}{more}"
    return f"{path or 'the document'} is {_short(first['input'])}; {said}{more}"


def _known_keys(model: type[BaseModel], parents: list[int | str]) -> list[str]:
    models = [model]
    for part in parents:
        fields = [field for one in models for name, field in one.model_fields.items() if part in (field.alias, name)]
        models = [inner for field in fields for inner in models_in(field.annotation)] or models
    return sorted({field.alias or name for one in models for name, field in one.model_fields.items()})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
