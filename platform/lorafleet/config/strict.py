"""The base of everything a user writes: frozen, closed, and helpful about misspelt keys and about values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from lorafleet.config.wording import BOOLEAN_NUMBER, MAPPING, WANTED, alternatives, path_of, shown, wanted
from lorafleet.errors import LorafleetError, ManifestError

Model = TypeVar("Model", bound="Strict")


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
    by_path: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for error in problem.errors(include_url=False):
        by_path.setdefault(path_of(error, data), []).append(error)
    inner = {path[:i] for path in by_path for i in range(len(path))}
    innermost = {path: errors for path, errors in by_path.items() if path not in inner} or by_path
    unknown = next((path for path, errors in innermost.items() if _is_unknown_key(errors[0])), None)
    loc, errors = next(iter(innermost.items())) if unknown is None else (unknown, innermost[unknown])
    more = f" (and {len(innermost) - 1} more)" if len(innermost) > 1 else ""
    path = ".".join(map(str, loc))
    if unknown is not None:
        return f"unknown key {path!r}; {_about_key(loc, model)}{more}"
    if errors[0]["type"] == "missing":
        return f"{path!r} is missing; add it{more}"
    return f"{_about_value(path, loc, errors, model)}{more}"


def _is_unknown_key(error: ErrorDetails) -> bool:
    return error["type"] in ("extra_forbidden", "invalid_key") or error["loc"][-1:] == ("[key]",)


def _about_key(loc: Sequence[int | str], model: type[BaseModel]) -> str:
    *parents, key = loc
    if not isinstance(key, str):
        return "keys are words; in braces a comma ends a value, so write 1,500 as 1500"
    keys = _keys(_models_at(model, parents))
    near = get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(keys)}"


def _about_value(path: str, loc: Sequence[int | str], errors: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    models = _models_at(model, loc[:-1])
    annotations = [field.annotation for field in _fields(models, loc[-1])] if loc else []
    in_a_list = bool(loc) and isinstance(loc[-1], int)
    inner = models if in_a_list else [model for annotation in annotations for model in models_in(annotation)]
    must = wanted(errors, annotations, _keys(inner))
    value = errors[0]["input"]
    if must is not None:
        return f"{path or 'the document'} is {shown(value)}; it must be {must}"
    error_of_its_own = next((error for error in errors if error["type"] not in (*WANTED, *MAPPING)), errors[0])
    message = error_of_its_own["msg"].removeprefix("Value error, ")
    if error_of_its_own["type"] == "value_error" and isinstance(value, Mapping):  # its keys disagree
        return f"{path}: {message}" if path else message
    return f"{path or 'the document'} is {shown(value)}; {message}"


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
