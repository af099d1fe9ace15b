"""The commands of this room: `serve` and `generate`. Heavy modules are imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BASE = "toy-playground"
SCHEDULER_HELP = (
    "By default the base's own. EDM bases: edm-dpmpp-2m, edm-euler; others: euler, euler-ancestral, dpmpp-2m, "
    "dpmpp-2m-karras, ddim, lcm, tcd."
)


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
    max_rows: Annotated[int, typer.Option(min=1, max=256, help="Images a replica denoises at the same time.")] = 8,
    max_step_ms: Annotated[
        float | None, typer.Option(help="Fewer at a time where a step would take longer, in milliseconds.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="A UNet call for each image: slower, and the same to the bit always.")
    ] = False,
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="Engines, each with its own base.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Add engines up to so many while images wait.")
    ] = None,
    gpus_per_replica: Annotated[float, typer.Option(help="On a GPU; a fraction lets engines share one.")] = 1.0,
    bundles: Annotated[
        Path | None, typer.Option(help="Serve this folder of bundles instead of MLflow's registry.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster; by default one is started here.")] = None,
    debug: Annotated[bool, typer.Option(help="Show Ray's logs.")] = False,
) -> None:
    """Serve images over HTTP until Ctrl-C."""
    from lorafleet.bases import find_base
    from lorafleet.config.strict import parse
    from lorafleet.console import err, out
    from lorafleet.errors import RequestError
    from lorafleet_serve.replicas.serve_args import ServeArgs

    said = {
        "base": find_base(base).name, "max_rows": max_rows, "max_step_ms": max_step_ms, "exact": exact,
        "replicas": replicas, "max_replicas": max_replicas, "gpus_per_replica": gpus_per_replica,
        "bundles": None if bundles is None else str(bundles.resolve()),
    }  # fmt: skip
    args = parse(ServeArgs, said, "serve", RequestError)
    err.print(f"starting Ray Serve with {base} ...")
    from lorafleet_serve.replicas.server import curl_line, serving
    from lorafleet_serve.signals import until_told_to_stop

    with serving(args, host, port, address=address, debug=debug) as url:
        out.print(f"serving {base} at {url} (documentation: {url}/docs); stop with Ctrl-C")
        out.print(curl_line(url), markup=False)
        until_told_to_stop()
        err.print("finishing accepted requests ...")


def generate(
    prompt: Annotated[
        str,
        typer.Argument(
            help="What to show; subjects by their triggers, as in <dog-rex>; (words:1.2) weighs them, "
            "<lora:NAME:SCALE> is --adapter NAME=SCALE."
        ),
    ],
    base: Annotated[str | None, typer.Option(help="By default the adapters' own, else toy-playground.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help=r"NAME\[@VERSION|ALIAS]\[=SCALE] or a bundle's folder; repeat for several.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", "--negative", help="What to keep out of the picture.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; by default the base's.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="By default what base and scheduler ask for; 1 is no guidance.")
    ] = None,
    guidance_rescale: Annotated[
        float, typer.Option(help="0 to 1: how much of guidance's excess contrast is taken back.")
    ] = 0.0,
    scheduler: Annotated[str | None, typer.Option(help=SCHEDULER_HELP)] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="Text encoder layers to leave out beside the last, as in diffusers.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Drawn if absent, and always printed.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    out: Annotated[Path | None, typer.Option(help="The PNG to write; by default lorafleet-SEED.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make one image in this process, without a server."""
    import secrets

    from lorafleet.console import note, print_json
    from lorafleet.console import out as stdout
    from lorafleet_serve.adapters.spec import AdapterSpec, parse_adapter
    from lorafleet_serve.engine.named import check_untagged, read_tags

    specs = [parse_adapter(text) for text in adapter or []]  # a mistyped one is answered before anything is imported
    check_untagged(negative_prompt)
    prompt, tags = read_tags(prompt)
    specs += [AdapterSpec(tag.name, scale=tag.scale) for tag in tags]

    from lorafleet_serve import local as solo
    from lorafleet_serve.api.png import provenance
    from lorafleet_serve.engine.requests import GenerateRequest

    seed = secrets.randbelow(2**32) if seed is None else seed
    uses = solo.resolve(specs)
    for text in solo.notes_on(prompt, uses):
        note(text)
    request = GenerateRequest(
        prompt, seed, negative_prompt, uses, steps, guidance_scale, scheduler, width, height,
        guidance_rescale=guidance_rescale, clip_skip=clip_skip,
    )  # fmt: skip
    image = solo.make(request, base or solo.own_base(uses, DEFAULT_BASE))
    path = out or Path(f"lorafleet-{seed}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.png)
    if json:
        print_json({"path": str(path.resolve()), **provenance(image.made, image.base)})
    else:
        stdout.print(f"{path} (seed {seed})", markup=False)
