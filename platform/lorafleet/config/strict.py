"""The base of everything a user writes: frozen, closed, and helpful about misspelt keys and about values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from lorafleet.config.places import KeyPath
from lorafleet.config.wording import BOOLEAN_NUMBER, MAPPING, WANTED, alternatives, path_of, shown, wanted
from lorafleet.errors import LorafleetError, ManifestError

Model = TypeVar("Model", bound="Strict")
Spelling = Callable[[Sequence[int | str]], str]
Raw = Callable[[KeyPath], str | None]
"""A value as it is written, by its path; None where that is not known."""


class Strict(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false where Python would make 1 and 0 of them."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = alternatives(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and (int in kinds or float in kinds):
                raise PydanticCustomError(BOOLEAN_NUMBER, "a number is wanted")
        return value

    def with_changes(self, **changes: Any) -> Self:
        """A validated copy with some fields replaced."""
        return type(self).model_validate({**self.model_dump(), **changes})


def dotted(path: Sequence[int | str]) -> str:
    """A path as requests and cards have it: `adapters.0.scale`."""
    return ".".join(map(str, path))


def parse(model: type[Model], data: object, where: str, error: type[LorafleetError] = ManifestError) -> Model:
    """Validates `data`; the first problem becomes one line that says what, where and what to do."""
    try:
        return model.model_validate(data)
    except ValidationError as problem:
        raise error(f"{where}: {describe(problem, model, data)}") from None


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with data."""

    path: KeyPath
    """Of the value; of a key that is missing or unknown, the key's own."""
    message: str
    """With the path in it."""
    kind: Literal["unknown", "missing", "value", "keys"]
    """keys: those of a mapping disagree."""
    near: str | None = None
    """What an unknown key may have been meant to be."""


def describe(problem: ValidationError, model: type[BaseModel], data: object) -> str:
    """The first validation error in words: its path, the value, what is allowed, the nearest known key.

    An unknown key comes first: where one is misspelt, another seems to be missing.
    """
    found = mistakes(problem, model, data)
    first = next((one for one in found if one.kind == "unknown"), found[0])
    return first.message + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def mistakes(
    problem: ValidationError, model: type[BaseModel], data: object, spelt: Spelling = dotted, raw: Raw | None = None
) -> list[Mistake]:
    """Every validation error in words, one for each value; `spelt` writes paths, `raw` says how a value is written."""
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for error in problem.errors(include_url=False):
        by_path.setdefault(path_of(error, data), []).append(error)
    inner = {path[:i] for path in by_path for i in range(len(path))}
    innermost = {path: errors for path, errors in by_path.items() if path not in inner} or by_path
    return [_mistake(path, errors, model, spelt, raw(path) if raw else None) for path, errors in innermost.items()]


def _mistake(
    path: KeyPath, errors: Sequence[ErrorDetails], model: type[BaseModel], spelt: Spelling, raw: str | None
) -> Mistake:
    if _is_unknown_key(errors[0]):
        remedy, near = _about_key(path, model)
        name = spelt((*path[:-1], str(path[-1])))  # a number here is a key, no index
        return Mistake(path, f"unknown key {name!r}; {remedy}", "unknown", near)
    if errors[0]["type"] == "missing":
        return Mistake(path, f"{spelt(path)!r} is missing; add it", "missing")
    keys_disagree = errors[0]["type"] == "value_error" and isinstance(errors[0]["input"], Mapping)
    message = _about_value(spelt(path), path, errors, model, raw)
    return Mistake(path, message, "keys" if keys_disagree else "value")


def _is_unknown_key(error: ErrorDetails) -> bool:
    return error["type"] in ("extra_forbidden", "invalid_key") or error["loc"][-1:] == ("[key]",)


def _about_key(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[str, str | None]:
    """What to do about an unknown key, and the key that it may be."""
    *parents, key = loc
    if not isinstance(key, str):
        return "keys are words; in braces a comma ends a value, so write 1,500 as 1500", None
    keys = _keys(_models_at(model, parents))
    near = get_close_matches(key, keys, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}?", near[0]) if near else (f"known keys are {', '.join(keys)}", None)


def _about_value(
    name: str, loc: Sequence[int | str], errors: Sequence[ErrorDetails], model: type[BaseModel], raw: str | None
) -> str:
    models = _models_at(model, loc[:-1])
    annotations = [field.annotation for field in _fields(models, loc[-1])] if loc else []
    in_a_list = bool(loc) and isinstance(loc[-1], int)
    inner = models if in_a_list else [model for annotation in annotations for model in models_in(annotation)]
    must = wanted(errors, annotations, _keys(inner), raw)
    value = errors[0]["input"]
    if must is not None:
        return f"{name or 'the document'} is {shown(value, raw)}; it must be {must}"
    error_of_its_own = next((error for error in errors if error["type"] not in (*WANTED, *MAPPING)), errors[0])
    message = error_of_its_own["msg"].removeprefix("Value error, ")
    if error_of_its_own["type"] == "value_error" and isinstance(value, Mapping):  # its keys disagree
        return f"{name}: {message}" if name else message
    return f"{name or 'the document'} is {shown(value, raw)}; {message}"


def _models_at(model: type[BaseModel], parents: Sequence[int | str]) -> list[type[BaseModel]]:
    models = [model]
    for part in parents:
        models = [inner for field in _fields(models, part) for inner in models_in(field.annotation)] or models
    return models


def _fields(models: Sequence[type[BaseModel]], key: int | str) -> list[FieldInfo]:
    return [field for model in models for name, field in model.model_fields.items() if key in (field.alias, name)]


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]
