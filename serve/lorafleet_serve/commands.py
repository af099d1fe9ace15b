"""The commands of this room: `serve` and `generate`. Heavy modules are imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BASE = "toy-playground"


def register(app: typer.Typer) -> None:
    """Adds this room's commands to the application."""
    app.command("serve")(serve)
    app.command("generate")(generate)


def serve(
    base: Annotated[
        str, typer.Option(help="toy-playground, toy-sdxl, sdxl, playground-v2.5, a folder or a hub id.")
    ] = (DEFAULT_BASE),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    max_rows: Annotated[int, typer.Option(min=1, max=256, help="Images denoised at the same time.")] = 8,
    bundles: Annotated[
        Path | None, typer.Option(help="Serve this folder of bundles instead of MLflow's registry.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; by default one is started here.")] = None,
    debug: Annotated[bool, typer.Option(help="Show Ray's logs.")] = False,
) -> None:
    """Serve images over HTTP until Ctrl-C."""
    from lorafleet.bases import find_base
    from lorafleet.console import err, out

    found = find_base(base)
    name = str(found.path) if Path(base).is_dir() else base
    err.print(f"starting Ray Serve with {base} ...")
    from lorafleet_serve.deployment import ServeArgs
    from lorafleet_serve.server import curl_line, serving
    from lorafleet_serve.waiting import until_told_to_stop

    args = ServeArgs(base=name, max_rows=max_rows, bundles=None if bundles is None else str(bundles.resolve()))
    with serving(args, host, port, address=address, debug=debug) as url:
        out.print(f"serving {base} at {url} (documentation: {url}/docs); stop with Ctrl-C")
        out.print(curl_line(url), markup=False)
        until_told_to_stop()
        err.print("finishing accepted requests ...")


def generate(
    prompt: Annotated[str, typer.Argument(help="What to show; name a subject by its trigger, as in <dog-rex>.")],
    base: Annotated[str | None, typer.Option(help="By default the adapters' own, else toy-playground.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help=r"NAME\[@VERSION|ALIAS]\[=SCALE] or a bundle's folder; repeat for several.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep out of the picture.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default the base's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="By default the base's.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="By default the base's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Drawn if absent, and always printed.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    out: Annotated[Path | None, typer.Option(help="The PNG to write; by default lorafleet-SEED.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make one image in this process, without a server."""
    import secrets

    from lorafleet.console import out as stdout
    from lorafleet.console import print_json
    from lorafleet_serve.adapter_spec import parse_adapter

    specs = [parse_adapter(text) for text in adapter or []]  # a mistyped one is answered before anything is imported

    from lorafleet_serve import solo
    from lorafleet_serve.images import provenance
    from lorafleet_serve.requests import GenerateRequest

    seed = secrets.randbelow(2**32) if seed is None else seed
    uses = solo.resolve(specs)
    request = GenerateRequest(prompt, seed, negative_prompt, uses, steps, guidance_scale, scheduler, width, height)
    image = solo.make(request, base or solo.own_base(uses, DEFAULT_BASE))
    path = out or Path(f"lorafleet-{seed}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.png)
    if json:
        print_json({"path": str(path.resolve()), **provenance(image.made, image.base)})
    else:
        stdout.print(f"{path} (seed {seed})", markup=False)
