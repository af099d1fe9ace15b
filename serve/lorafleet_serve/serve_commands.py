"""The commands `serve` and `generate`: options, and what is printed.

What they need of torch and Ray is imported inside them, so that their `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lorafleet_serve.adapters.spec import AdapterSpec
    from lorafleet_serve.api.edit_inputs import Begun
    from lorafleet_serve.engine.requests import GeneratedImage

DEFAULT_BASE = "toy-playground"
SCHEDULER_HELP = (
    "By default the base's own. EDM bases: edm-dpmpp-2m, edm-euler; others: euler, euler-ancestral, dpmpp-2m, "
    "dpmpp-2m-karras, ddim, lcm, tcd."
)


BASE_HELP = "toy-playground, toy-sdxl, sdxl, playground-v2.5, a folder or a hub id."
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
RowsOption = Annotated[int, typer.Option(min=1, max=256, help="Images that a replica denoises at the same time.")]
StepMsOption = Annotated[
    float | None, typer.Option(help="Milliseconds a step may take: fewer images step together where it takes longer.")
]
ExactOption = Annotated[
    bool, typer.Option("--exact", help="A UNet call for each image: slower, and the same to the bit always.")
]
ReplicasOption = Annotated[int, typer.Option(min=1, max=1000, help="Engines, each with its own copy of the base.")]
MaxReplicasOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Add engines up to this number while images wait.")
]
GpusOption = Annotated[float, typer.Option(help="GPUs of each engine; with a fraction several share one.")]
BundlesOption = Annotated[Path | None, typer.Option(help="Serve this folder of bundles instead of MLflow's registry.")]
AnyModelOption = Annotated[
    bool, typer.Option("--accept-any-model", help="Clients' usual models, as dall-e-3 and gpt-image-1, mean the base.")
]
AutoAdaptersOption = Annotated[
    bool, typer.Option("--auto-adapters", help="An adapter's trigger in a prompt, as <dog-rex>, adds the adapter.")
]
WebhookHostOption = Annotated[
    list[str] | None,
    typer.Option(help="HOST or HOST:PORT that jobs may have told of their end; repeat for several, none by default."),
]
AddressOption = Annotated[str | None, typer.Option(help="A running Ray cluster; by default one is started here.")]
DebugOption = Annotated[bool, typer.Option(help="Show Ray's logs.")]

PromptArgument = Annotated[
    str,
    typer.Argument(
        help="What the image shows; an adapter's trigger, as in <dog-rex>, stands for its subject; (words:1.2) "
        "gives words a weight, <lora:NAME:SCALE> is --adapter NAME=SCALE."
    ),
]
OwnBaseOption = Annotated[str | None, typer.Option(help="By default the adapters' own, else toy-playground.")]
AdapterOption = Annotated[
    list[str] | None, typer.Option(help=r"NAME\[@VERSION|ALIAS]\[=SCALE] or a bundle's folder; repeat for several.")
]
NegativeOption = Annotated[
    str | None, typer.Option("--negative-prompt", "--negative", help="What to keep out of the image.")
]
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps; by default the base's.")]
GuidanceOption = Annotated[
    float | None, typer.Option(help="By default the base's for the scheduler; 1 is no guidance.")
]
RescaleOption = Annotated[
    float, typer.Option(help="0 to 1: how much of the excess contrast that guidance adds is removed.")
]
SchedulerOption = Annotated[str | None, typer.Option(help=SCHEDULER_HELP)]
ClipSkipOption = Annotated[
    int | None, typer.Option(help="How many more of the text encoders' last layers are skipped, as in diffusers.")
]
InitOption = Annotated[
    Path | None,
    typer.Option(help="A PNG, JPEG or WebP to begin from; the image has its shape, unless --width says another."),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(help="How much of --init-image is made anew, above 0 to 1; by default 0.6, or 1 with --mask."),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(help="As large as --init-image: only what is transparent in it, or else white, is made anew."),
]
SeedOption = Annotated[int | None, typer.Option(help="Drawn if absent, and always printed.")]
PixelsOption = Annotated[int | None, typer.Option(help="Pixels; by default the base's.")]
OutOption = Annotated[Path | None, typer.Option(help="The PNG to write; by default lorafleet-SEED.png.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def serve(
    base: Annotated[str, typer.Option(help=BASE_HELP)] = DEFAULT_BASE,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    max_rows: RowsOption = 8,
    max_step_ms: StepMsOption = None,
    exact: ExactOption = False,
    replicas: ReplicasOption = 1,
    max_replicas: MaxReplicasOption = None,
    gpus_per_replica: GpusOption = 1.0,
    bundles: BundlesOption = None,
    accept_any_model: AnyModelOption = False,
    auto_adapters: AutoAdaptersOption = False,
    webhook_host: WebhookHostOption = None,
    address: AddressOption = None,
    debug: DebugOption = False,
) -> None:
    """Serve images over HTTP until Ctrl-C."""
    from lorafleet.bases import find_base
    from lorafleet.config.strict import parse
    from lorafleet.console import err, out
    from lorafleet.errors import RequestError
    from lorafleet_serve.replicas.serve_args import ServeArgs

    found = find_base(base)
    options = {
        "base": found.name,
        "max_rows": max_rows,
        "max_step_ms": max_step_ms,
        "exact": exact,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "gpus_per_replica": gpus_per_replica,
        "bundles": None if bundles is None else str(bundles.resolve()),
        "accept_any_model": accept_any_model,
        "auto_adapters": auto_adapters,
        "webhook_hosts": tuple(webhook_host or ()),
    }
    args = parse(ServeArgs, options, "serve", RequestError)
    which = f", loaded from the {found.files_choice}," if found.files_choice else ""
    err.print(f"starting Ray Serve with {base}{which} ...", markup=False)
    from lorafleet_serve.replicas.server import curl_line, serving
    from lorafleet_serve.signals import wait_for_stop_signal

    with serving(args, host, port, address=address, debug=debug) as url:
        out.print(f"serving {base} at {url} (documentation: {url}/docs); stop with Ctrl-C")
        out.print(curl_line(url), markup=False)
        wait_for_stop_signal()
        err.print("finishing accepted requests ...")


def generate(
    prompt: PromptArgument,
    base: OwnBaseOption = None,
    adapter: AdapterOption = None,
    negative_prompt: NegativeOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    guidance_rescale: RescaleOption = 0.0,
    scheduler: SchedulerOption = None,
    clip_skip: ClipSkipOption = None,
    seed: SeedOption = None,
    width: PixelsOption = None,
    height: PixelsOption = None,
    init_image: InitOption = None,
    strength: StrengthOption = None,
    mask: MaskOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Make one image in this process, without a server."""
    import secrets

    from lorafleet_serve.adapters.spec import AdapterSpec, parse_adapter
    from lorafleet_serve.engine.prompt_tags import check_untagged, read_tags

    specs = [parse_adapter(text) for text in adapter or []]  # a mistyped one is refused before the slow imports
    check_untagged(negative_prompt)
    begun = _begun(init_image, mask, strength)
    prompt, tags = read_tags(prompt)
    specs += [AdapterSpec(tag.name, scale=tag.scale) for tag in tags]
    options = {
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "scheduler": scheduler,
        "clip_skip": clip_skip,
        "width": width,
        "height": height,
    }
    seed = secrets.randbelow(2**32) if seed is None else seed
    image = _generate(prompt, seed, specs, base, options, begun)
    _write(image, out or Path(f"lorafleet-{seed}.png"), json)


def _begun(image: Path | None, mask: Path | None, strength: float | None) -> Begun | None:
    """The pictures that the options name, read before the slow imports."""
    from lorafleet.errors import RequestError
    from lorafleet_serve.api.edit_inputs import Begun
    from lorafleet_serve.api.uploads import picture_file

    if image is not None:
        return Begun(picture_file(image), None if mask is None else picture_file(mask), strength)
    if mask is not None or strength is not None:
        raise RequestError("--mask and --strength say what becomes of a picture; name it with --init-image")
    return None


def _generate(
    prompt: str,
    seed: int,
    specs: Sequence[AdapterSpec],
    base: str | None,
    options: Mapping[str, Any],
    begun: Begun | None,
) -> GeneratedImage:
    from lorafleet.console import note, working

    with working("loading libraries ..."):
        from lorafleet.bases import find_base
        from lorafleet_serve import local
        from lorafleet_serve.engine.requests import GenerateRequest
    with working("finding adapters ..."):
        uses = local.resolve(specs, base)
        hints = local.notes_on(prompt, uses)
    for hint in hints:
        note(hint)
    base = base or local.base_of(uses, DEFAULT_BASE)
    init = None if begun is None else begun.fitted(find_base(base), options["width"], options["height"])
    with working(f"loading {base}, then making the image ..."):
        return local.generate_image(GenerateRequest(prompt, seed, adapters=uses, init=init, **options), base)


def _write(made: GeneratedImage, path: Path, json: bool) -> None:
    from lorafleet.console import out, print_json
    from lorafleet_serve.api.png import png_bytes, provenance

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(made))
    if json:
        print_json({"path": str(path.resolve()), **provenance(made.settings)})
    else:
        out.print(f"{path} (seed {made.settings.request.seed})", markup=False)
