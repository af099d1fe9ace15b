"""The commands `adapters promote`, `demote` and `verify`: what a name without a version means, and what is whole."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet.bundle.ports import CHAMPION
from lorafleet.console import out, print_json
from lorafleet.errors import LorafleetError, RequestError
from lorafleet.home import Home
from lorafleet.tracking import MlflowRegistry, MlflowTracking

if TYPE_CHECKING:
    from lorafleet.bases import Base
    from lorafleet.loaded import LoadedBase

Versioned = Annotated[str, typer.Argument(metavar="NAME@VERSION", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def promote(
    name: Versioned,
    alias: Annotated[
        str | None, typer.Option("--alias", help="The alias; champion by default, which is used without a version.")
    ] = None,
) -> int:
    """Make one version champion, whatever submissions do later.

    Exit code 3: there is none.
    """
    adapter, _, version = name.partition("@")
    if not version.isdecimal():
        raise RequestError(f"{name!r} names no version; write {adapter or 'NAME'}@3, as in: lorafleet adapters ls")
    home = Home.from_environment()
    registered = MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve(adapter, version)  # whole, or an error
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    out.print(tracking.promote(registered.name, registered.version, alias), markup=False)
    return 0


def demote(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    alias: Annotated[str, typer.Option("--alias", help="The alias that is taken away.")] = CHAMPION,
) -> int:
    """Take an alias away from the version that has it.

    Exit code 3: none has.
    """
    home = Home.from_environment()
    out.print(MlflowTracking(home.tracking_uri, home.artifacts).demote(name, alias), markup=False)
    return 0


def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME[@VERSION|ALIAS]]", show_default=False)] = "",
    as_json: AsJson = False,
) -> int:
    """Check that adapters are whole: every file's hash, shapes, and that the base is here.

    Exit code 1: one is not.
    """
    home = Home.from_environment()
    registry = MlflowRegistry(home.tracking_uri, home.adapter_cache)
    adapter, _, version = name.partition("@")
    wanted = [(adapter, version or None)] if name else [(each.name, str(each.version)) for each in registry.list()]
    found = {f"{a}@{v}" if v else a: _problem(registry, a, v) for a, v in wanted}
    if as_json:
        print_json({"adapters": [{"adapter": label, "problem": problem} for label, problem in found.items()]})
        return 1 if any(found.values()) else 0
    for label, problem in found.items():
        out.print(f"{label}: {problem or 'whole'}", markup=False)
    return 1 if any(found.values()) else 0


def _problem(registry: MlflowRegistry, name: str, version: str | None) -> str | None:
    """Why a version could not be served; None if it could."""
    from lorafleet.bases import find_base  # with torch, which a mistyped name should not wait for
    from lorafleet.bundle.adapter import check_adapter
    from lorafleet.bundle.bundle import read_bundle

    try:
        registered = registry.resolve(name, version)
        base = find_base(registered.base)
        bundle, shape = read_bundle(registered.path, base), _shape_of(base)
        check_adapter(bundle, {part: lora.shapes() for part, lora in shape.lora.items()}, shape.prompts.widths)
    except LorafleetError as problem:
        return str(problem)
    return None


@cache
def _shape_of(base: Base) -> LoadedBase:
    from lorafleet.formats.importing import shape_of

    return shape_of(base)
