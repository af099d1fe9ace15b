"""The command `evaluate`: a thin shell around `lorafleet_jobs.evaluate`.

That is imported inside, after the libraries were told to be quiet, and so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet_jobs.cli.plan_commands import BaseName
from lorafleet_jobs.cli.terminal.completions import submissions
from lorafleet_jobs.cli.terminal.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorafleet_jobs.evaluate.find import Findings, Trained
    from lorafleet_jobs.evaluate.pictures import SamplingOptions, SubjectPictures
    from lorafleet_jobs.evaluate.real import Weights
    from lorafleet_jobs.evaluate.run import Evaluation
    from lorafleet_jobs.evaluate.suite import Suite

Wanted = Annotated[
    list[str],
    typer.Argument(
        metavar="SUBMISSION|ADAPTER...",
        help="A submission's id; an adapter's name, NAME@VERSION or NAME@ALIAS.",
        show_default=False,
        autocompletion=submissions,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, max=1000, help="Denoising steps; by default the base's.", show_default=False),
]
Dino = Annotated[
    Path | None, typer.Option("--dino", metavar="FOLDER", help="DINO ViT-S/16, for real bases.", show_default=False)
]
Clip = Annotated[
    Path | None, typer.Option("--clip", metavar="FOLDER", help="CLIP ViT-B/32, for real bases.", show_default=False)
]
Lpips = Annotated[
    Path | None, typer.Option("--lpips", metavar="FOLDER", help="LPIPS (AlexNet), for real bases.", show_default=False)
]


def evaluate(
    wanted: Wanted,
    base: BaseName = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Pictures for each prompt.")] = 4,
    steps: Steps = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures and the intervals.")] = 0,
    dino: Dino = None,
    clip: Clip = None,
    lpips: Lpips = None,
    details: Annotated[bool, typer.Option("--details", help="Also every score, beside every control.")] = False,
    as_json: AsJson = False,
) -> int:
    """Say which adapters to keep: likeness, prompt, drift, memorisation beside the base. Each score goes to MLflow.

    Exit code 0: all were scored. 1: some jobs of a submission have no adapter. 3: no such submission or adapter.
    """
    from lorafleet.console import note
    from lorafleet.home import Home
    from lorafleet.tracking import MlflowRegistry, MlflowTracking
    from lorafleet.util.quiet import quiet_libraries

    quiet_libraries()
    from lorafleet_jobs.evaluate.find import find
    from lorafleet_jobs.evaluate.pictures import SamplingOptions
    from lorafleet_jobs.evaluate.publish_scores import publish
    from lorafleet_jobs.evaluate.real import Weights

    home = Home.from_environment()
    meant = find(wanted, home, MlflowRegistry(home.tracking_uri, home.adapter_cache))
    for one in meant.left_out:
        note(one, "skipped")
    evaluation = _evaluated(meant, base, SamplingOptions(samples, seed=seed, steps=steps), Weights(dino, clip, lpips))
    _show(evaluation, details, as_json)
    for problem in publish(evaluation, meant.adapters, MlflowTracking(home.tracking_uri, home.artifacts)):
        note(problem)
    return 1 if meant.left_out else 0


def _show(evaluation: Evaluation, details: bool, as_json: bool) -> None:
    from lorafleet.console import note, out, print_json
    from lorafleet_jobs.evaluate import show
    from lorafleet_jobs.evaluate.verdict import recommendations, verdicts

    if as_json:
        print_json(show.as_json(evaluation))
        return
    for table in show.tables(evaluation) if details else ():
        out.print(table)
        out.print()
    found = verdicts(evaluation)
    out.print(show.verdict_table(found, f"{evaluation.title}: what each adapter is worth"))
    out.print()
    for line in recommendations(found):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in evaluation.notes:
        note(line)
    if not evaluation.zero_is_base:
        note("an adapter at scale 0 did not make the base's pictures; report this as a defect", "error", "bold red")


def _evaluated(meant: Findings, base: str | None, how: SamplingOptions, weights: Weights) -> Evaluation:
    from lorafleet.bases import find_base
    from lorafleet.bundle.adapter import load_adapter
    from lorafleet.console import err
    from lorafleet.loaded import LoadedBase
    from lorafleet_jobs.evaluate.arms import word_of
    from lorafleet_jobs.evaluate.find import real_pictures
    from lorafleet_jobs.evaluate.run import Candidate
    from lorafleet_jobs.evaluate.run import evaluate as score

    own = find_base(base or _own_base(meant.adapters))
    pictures = real_pictures(meant.adapters, own.resolution)
    suite = _suite(own.is_toy, own.name, list({one.name: one for one in pictures}.values()), weights)
    device, precision = _device()
    loaded = LoadedBase.load(own, device, precision)
    candidates = []
    for one, subject in zip(meant.adapters, pictures, strict=True):
        adapter = load_adapter(one.bundle, loaded)
        candidates.append(Candidate(one.label, adapter, subject, word_of(adapter, one.spec.instance_prompt)))
    with err.status("") as status:
        return score(
            loaded, candidates, suite, how,
            lambda candidate, arm: status.update(f"{candidate}: {arm}"),
        )  # fmt: skip


def _own_base(adapters: Sequence[Trained]) -> str:
    from lorafleet.errors import RequestError

    bases = sorted({one.spec.base for one in adapters})
    if len(bases) > 1:
        raise RequestError(f"the adapters were made for {' and '.join(bases)}; evaluate those of one base at a time")
    return bases[0]


def _suite(toy: bool, base: str, subjects: Sequence[SubjectPictures], weights: Weights) -> Suite:
    if toy:
        from lorafleet_jobs.evaluate.toy import ToySuite

        return ToySuite(subjects)
    from lorafleet_jobs.evaluate.real import RealSuite

    return RealSuite.load(base, subjects, weights, _device()[0])


def _device() -> tuple[str, str]:
    import torch

    return ("cuda", "fp16") if torch.cuda.is_available() else ("cpu", "fp32")
