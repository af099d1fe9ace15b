"""Says what is wrong with a value in YAML's words: null, true, lists and quotes, not Python's types.

Knows pydantic's kinds of errors. Refuses to know which keys there are and what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic_core import ErrorDetails

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
ENVIRONMENT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
PATTERNS = {
    ENVIRONMENT_PATTERN: "the name of an environment variable: letters, digits and underscores, no digit first",
    NAME_PATTERN: "1 to 64 small letters, digits, dots, dashes and underscores, a letter or digit first",
    r"^TOK[0-9]*$": "TOK, or TOK and a number",
}
LIST = 'a list, as in [a, b], or a line for each, beginning with "- "'
QUOTED = '; put it in quotes, as in "no", "007" and "12:30"'
WANTED: dict[str, Callable[[dict[str, Any]], str]] = {
    "list_type": lambda _: LIST,
    "tuple_type": lambda _: LIST,
    "string_type": lambda _: "text",
    "int_type": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a smaller number",
    "float_type": lambda _: "a number",
    "float_parsing": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "number_wanted": lambda _: "a number",
    "bool_type": lambda _: "true or false",
    "bool_parsing": lambda _: "true or false",
    "literal_error": lambda ctx: str(ctx["expected"]),
    "greater_than_equal": lambda ctx: f"at least {_number(ctx['ge'])}",
    "greater_than": lambda ctx: f"above {_number(ctx['gt'])}",
    "less_than_equal": lambda ctx: f"at most {_number(ctx['le'])}",
    "less_than": lambda ctx: f"below {_number(ctx['lt'])}",
    "multiple_of": lambda ctx: f"a multiple of {ctx['multiple_of']}",
    "string_too_short": lambda ctx: f"text of {_counted(ctx['min_length'], 'character')} or more",
    "string_too_long": lambda ctx: f"text of {_counted(ctx['max_length'], 'character')} at most",
    "string_pattern_mismatch": lambda ctx: PATTERNS.get(ctx["pattern"], "text of another form"),
    "too_short": lambda ctx: f"a list of at least {ctx['min_length']}",
    "too_long": lambda ctx: f"a list of at most {ctx['max_length']}",
}
"""What a value must be, by pydantic's kind of error."""
MAPPING = ("model_type", "dict_type", "model_attributes_type", "dataclass_type", "mapping_type")
BOOLEAN_NUMBER = "number_wanted"
_TAG = re.compile(
    r"(int|str|float|bool|constrained-\w+|[A-Z]\w+|(literal|tuple|list|dict|function-\w+)\[.*\])", re.DOTALL
)


def wanted(
    errors: Sequence[ErrorDetails], annotations: Sequence[Any], keys: Sequence[str], raw: str | None = None
) -> str | None:
    """What one value must be, by the errors of all the kinds that it may be of; None if one has words of its own.

    `annotations` are its field's types, `keys` those of a mapping that it may be, `raw` is the value as written.
    """
    descriptions: dict[str, None] = {}
    for error in errors:
        kind, ctx = error["type"], error.get("ctx", {})
        if kind in MAPPING:
            descriptions["a mapping" + (f" of {', '.join(keys)}" if keys else ", as in {key: value}")] = None
        elif kind in WANTED:
            descriptions[WANTED[kind](ctx)] = None
        else:
            return None
    value = errors[0]["input"]
    quotes = QUOTED if raw is None else f'; put it in quotes: "{raw}"'
    quotes = quotes if "text" in descriptions and isinstance(value, bool | int | float | date) else ""
    if any(NoneType in alternatives(annotation) for annotation in annotations):
        descriptions["null for none" if value is False else "null"] = None
    *others, last = descriptions
    comma = "," if any("," in text for text in others) else ""
    return (f"{', '.join(others)}{comma} or {last}" if others else last) + quotes


def shown(value: object, raw: str | None = None) -> str:
    """A value as it is written in a file, in at most 80 characters; `raw` is how it was, if YAML made another of it."""
    if raw is not None and raw != (read := shown(value)) and isinstance(value, bool | int | float | date):
        return f"{raw}, which YAML reads as {read}"
    if isinstance(value, Mapping):
        return "a mapping"
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = value.isoformat() if isinstance(value, date) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def path_of(error: ErrorDetails, data: object) -> tuple[int | str, ...]:
    """The keys that lead to an error, without the names that pydantic gives the kinds a value may be of."""
    path: list[int | str] = []
    for part in error["loc"]:
        inside = isinstance(data, Mapping) and part in data
        if part == "[key]" or (isinstance(part, str) and not inside and _TAG.fullmatch(part)):
            continue
        path.append(part)
        if isinstance(data, Mapping):
            data = data.get(part)
        else:
            there = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
            data = data[part] if there else None  # type: ignore[index]
    return tuple(path)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union, without what `Annotated` adds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for member in get_args(annotation) for kind in alternatives(member))
    return (annotation,)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
