"""Plans: every good subject at every point once, and ids that change with what is trained and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorafleet.bases import Base, find_base
from lorafleet.config import Manifest, Resources
from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import Finding
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.intake.base_size import measure_base
from lorafleet_jobs.intake.estimate import choice_for, estimate, job_seconds
from lorafleet_jobs.intake.layers import layers_of
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.memory_model import job_memory
from lorafleet_jobs.intake.plan import Plan, make_plan
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.intake.recipes import resolve, resolve_recipe
from lorafleet_jobs.jobspec import ImageSpec, JobSpec

BASE = find_base("toy-playground")
SIZE = measure_base(BASE)
TWO_CORES = Machine(cpus=2, gpus=0)


def report(name: str, images: int = 4, errors: int = 0, **subject: object) -> SubjectReport:
    fields = {"class_noun": "dog", "instance_prompt": None, **subject}
    home = Subject(name, Path("/photos") / name, name, caption_column="prompt", **fields)  # type: ignore[arg-type]
    files = tuple(ImageSpec(file=f"{n}.png", caption=None, sha256=f"{name}{n}") for n in range(images))
    found = tuple(Finding(id="D016", level="error", message="no class") for _ in range(errors))
    return SubjectReport(home, files, (*found, Finding(id="D010", level="info", message="no captions")))


def plan(
    reports: list[SubjectReport], base: Base = BASE, recipe: dict[str, object] | None = None, **more: object
) -> Plan:
    spec = {"name": "m", "subjects": [{"images": "x"}], "recipe": recipe or {}, **more}
    manifest = Manifest.model_validate(spec)
    resolved = [(one, resolve(layers_of(manifest, one.subject), manifest.sweep, True).recipes) for one in reports]
    return make_plan(manifest, resolved, base, SIZE, TWO_CORES)


def ids(found: Plan) -> list[str]:
    return [job.id for job in found.jobs]


def one(**changes: object) -> str:
    """The id of the one job of a small plan, with something changed."""
    return ids(plan([report("rex")], **changes))[0]  # type: ignore[arg-type]


def test_a_job_says_everything_a_lane_needs() -> None:
    [job] = plan([report("rex", class_noun="  big   dog ")], recipe={"steps": "10/image"}).jobs
    assert (job.subject, job.adapter, job.base, job.folder) == ("rex", "rex", "toy-playground", "/photos/rex")
    assert (job.steps, job.class_noun, job.instance_prompt) == (40, "big dog", "a photo of TOK big dog")
    assert len(job.id) == 16
    assert JobSpec.model_validate_json(job.model_dump_json()) == job


names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(names, st.sets(st.sampled_from("abcdefgh")), st.lists(st.integers(1, 9), unique=True, min_size=1, max_size=3),
       st.integers(1, 9), st.randoms())  # fmt: skip
def test_each_good_subject_at_each_point_exactly_once(
    subjects: list[str], bad: set[str], ranks: list[int], lanes: int, random: object
) -> None:
    reports = [report(name, errors=2 * (name in bad)) for name in subjects]
    found = plan(reports, sweep={"rank": ranks}, resources={"lanes": lanes})
    good = [name for name in subjects if name not in bad]
    assert [(job.subject, job.recipe.rank) for job in found.jobs] == [(name, rank) for name in good for rank in ranks]
    assert len(set(ids(found))) == len(found.jobs)
    assert [id for pack in found.packs for id in pack] == ids(found)  # noqa: A001
    assert found.lanes == min(lanes, len(found.jobs))
    assert {job.submission for job in found.jobs} <= {found.submission}
    assert [skipped.subject for skipped in found.skipped] == [name for name in subjects if name in bad]
    assert all(skipped.reason == "D016: no class (and 1 more)" for skipped in found.skipped)

    shuffled = sorted(reports, key=lambda _: random.random())  # type: ignore[attr-defined]
    again = plan(shuffled, sweep={"rank": ranks}, resources={"lanes": 9 - lanes + 1, "pack": 4})
    assert (again.submission, sorted(ids(again))) == (found.submission, sorted(ids(found)))


def test_ids_do_not_depend_on_where_files_lie() -> None:
    here, there = report("rex"), report("rex")
    there = replace(there, subject=replace(there.subject, folder=Path("/elsewhere"), written="elsewhere"))
    renamed = replace(here, images=tuple(i.with_changes(file=f"x{i.file}") for i in here.images))
    assert ids(plan([here])) == ids(plan([there])) == ids(plan([renamed]))


def test_ids_do_not_depend_on_how_many_workers_share_a_job() -> None:
    assert one(recipe={"gradient_accumulation": 4, "workers": 2}) == one(recipe={"gradient_accumulation": 4})


def test_ids_do_not_depend_on_where_activations_are_kept() -> None:
    found = {
        one(recipe={"gradient_checkpointing": "auto"}, resources=resources)
        for resources in ({}, {"gpu_memory_gib": 8}, {"gpu_memory_gib": 80, "pack": 1})
    }
    assert found == {one(), one(recipe={"gradient_checkpointing": False})}
    assert one(recipe={"gradient_checkpointing": True}) not in found  # what is written counts, as it always did


def test_what_a_plan_chooses_is_what_its_jobs_are_told() -> None:
    [job] = plan([report("rex")], recipe={"gradient_checkpointing": "auto"}).jobs
    assert job.recipe.gradient_checkpointing is False
    [job] = plan([report("rex")], recipe={"gradient_checkpointing": True}).jobs
    assert job.recipe.gradient_checkpointing is True
    assert plan([report("rex", errors=1)]).choice is None


def test_ids_change_with_whatever_is_trained() -> None:
    rex = report("rex")
    first, *rest = rex.images
    variants = [
        one(),
        one(recipe={"rank": 9}),
        one(recipe={"seed": 1}),
        one(recipe={"steps": 201}),
        one(recipe={"pivotal": None}),
        one(validation={"seed": 1}),
        one(base=find_base("toy-sdxl")),
        *ids(plan([report("mimi")])),
        *ids(plan([report("rex", 5)])),
        *ids(plan([report("rex", class_noun="cat")])),
        *ids(plan([report("rex", instance_prompt="TOK dog")])),
        *ids(plan([replace(rex, images=(first.with_changes(sha256="other"), *rest))])),
        *ids(plan([replace(rex, images=(first.with_changes(caption="TOK"), *rest))])),
    ]
    assert len(set(variants)) == len(variants)


def test_a_submission_is_named_after_its_manifest_and_content() -> None:
    found = plan([report("rex")])
    assert found.submission.startswith("m-")
    assert len(found.submission) == len("m-") + 10
    others = {plan([report("rex"), report("mimi")]).submission, plan([report("rex")], name="n").submission}
    assert found.submission not in others
    assert len(others) == 2


def test_a_base_in_a_folder_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").symlink_to(BASE.path)
    monkeypatch.chdir(tmp_path)
    [job] = plan([report("rex")], base=find_base("mine")).jobs
    assert job.base == str(BASE.path.resolve())
    assert job.id == one()


def write_manifest(tmp_path: Path, colour: int = 0) -> Path:
    (tmp_path / "rex").mkdir(exist_ok=True)
    for n in range(4):
        Image.new("RGB", (32, 32), (60 * n, colour, 0)).save(tmp_path / "rex" / f"{n}.png")
    (tmp_path / "m.yaml").write_text("name: m\nsubjects: [{images: rex, class: dog}]\n")
    return tmp_path / "m.yaml"


def test_from_files_one_changed_pixel_or_caption_is_another_job(tmp_path: Path) -> None:
    path = write_manifest(tmp_path)
    before = prepare(path).plan
    assert prepare(path).plan == before
    (tmp_path / "rex" / "0.txt").write_text("TOK dog")
    captioned = prepare(path).plan
    with Image.open(tmp_path / "rex" / "1.png") as image:
        image.putpixel((3, 3), (1, 2, 3))
        image.save(tmp_path / "rex" / "1.png")
    painted = prepare(path).plan
    assert len({p.submission for p in (before, captioned, painted)}) == 3
    assert len({p.jobs[0].id for p in (before, captioned, painted)}) == 3
    assert prepare(path, base="toy-sdxl").plan.jobs[0].base == "toy-sdxl"


def test_the_size_of_a_base_is_read_from_its_files() -> None:
    from safetensors.torch import load_file

    parts = {part: load_file(next((BASE.path / part).glob("*.safetensors")))
             for part in ("unet", "text_encoder", "text_encoder_2", "vae")}  # fmt: skip
    assert SIZE.parameters == sum(t.numel() for tensors in parts.values() for t in tensors.values())


def test_estimates_grow_with_work_and_shrink_with_lanes() -> None:
    recipe = resolve_recipe({}, toy=True)
    jobs = plan([report(name) for name in "abcd"]).jobs
    steps = jobs[0].steps
    alone = job_seconds(recipe, steps, BASE, on_gpu=False)
    assert job_seconds(recipe, 2 * steps, BASE, on_gpu=False) > 1.8 * alone
    small, large = (job_memory(recipe.with_changes(rank=rank), BASE, SIZE).peak for rank in (16, 64))
    assert large > small

    def seconds(lanes: int) -> float:
        resources = Resources(lanes=lanes, pack=1)
        choice = choice_for(jobs, BASE, SIZE, TWO_CORES, resources)
        return estimate(jobs, BASE, SIZE, TWO_CORES, resources, choice).seconds

    one_lane, two_lanes, many = map(seconds, (1, 2, 64))
    assert one_lane - two_lanes == pytest.approx(2 * alone, abs=0.2)
    assert many == two_lanes  # two cores run two lanes, whatever the manifest asks for


def test_lanes_at_once_fit_the_machine() -> None:
    big = Machine(cpus=16, gpus=2)
    assert big.lanes_at_once(Resources(lanes=8)) == 2
    assert big.lanes_at_once(Resources(lanes=8, gpus_per_lane=0.5)) == 4
    assert big.lanes_at_once(Resources(lanes=8, gpus_per_lane=0, cpus_per_lane=4)) == 4
    assert Machine(cpus=1, gpus=0).lanes_at_once(Resources(lanes=8, cpus_per_lane=4, gpus_per_lane=1)) == 1
