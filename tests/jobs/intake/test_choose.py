"""What `auto` comes to on cards of every size, and what is refused with which remedy."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.config import Recipe, Resources
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.choose import LARGEST_PACK, Choice, choose
from lorafleet_jobs.intake.machine import Device
from lorafleet_jobs.intake.memory_refusal import memory_note, refuse_memory
from lorafleet_jobs.intake.recipes import resolve_recipe
from sdxl_size import sdxl_base, sdxl_size

BASE, SIZE = sdxl_base(), sdxl_size()
MIB = {8: 8188, 12: 12288, 16: 16380, 24: 24564, 48: 49140, 80: 81559, 141: 143771}
"""What nvidia-smi says of cards of so many GB."""


def recipe(**keys: Any) -> Recipe:
    return resolve_recipe(keys, toy=False)


def card(gb: int, source: str = "nvidia-smi") -> Device:
    return Device(True, float(MIB[gb]), source)


def chosen(device: Device, *recipes: Recipe, share: int = 8, **resources: Any) -> Choice:
    return choose(device, recipes or (recipe(),), BASE, SIZE, Resources(**resources), share)


@pytest.mark.parametrize(
    ("gb", "share", "pack", "checkpointing"),
    [
        (12, 1, 1, True),
        (12, 8, 2, True),
        (16, 1, 1, False),
        (16, 8, 5, True),
        (24, 1, 1, False),
        (24, 2, 2, False),
        (24, 8, 2, False),
        (48, 6, 6, False),
        (48, 8, 5, False),
        (80, 8, 8, False),
        (80, 40, 8, False),
        (141, 1, 1, False),
        (141, 8, 8, False),
    ],
)
def test_the_default_recipe_on_every_card(gb: int, share: int, pack: int, checkpointing: bool) -> None:
    found = chosen(card(gb), share=share)
    assert found.fits
    assert (found.pack, found.gradient_checkpointing) == (pack, checkpointing)
    assert found.peak_memory_mib < found.needed_mib <= MIB[gb]


keys = st.fixed_dictionaries(
    {"preset": st.sampled_from(["object", "face", "dora", "pivotal"])},
    optional={
        "rank": st.sampled_from([4, 64]),
        "resolution": st.sampled_from([512, 768]),
        "batch_size": st.integers(1, 4),
        "gradient_checkpointing": st.booleans(),
        "optimizer": st.sampled_from(["adamw", "adafactor"]),
        "precision": st.sampled_from(["bf16", "fp32"]),
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(keys, min_size=1, max_size=3), st.sampled_from(list(MIB)), st.integers(1, 20))
def test_a_choice_fits_if_anything_does_and_keeps_what_is_written(
    points: list[dict[str, Any]], gb: int, share: int
) -> None:
    recipes = [recipe(**point) for point in points]
    found = chosen(card(gb), *recipes, share=share)
    assert 1 <= found.pack <= min(LARGEST_PACK, share)
    for one in recipes:
        applied = found.applied(one)
        written = one.gradient_checkpointing
        assert applied.gradient_checkpointing == (found.gradient_checkpointing if written == "auto" else written)
        assert applied.model_dump(exclude={"gradient_checkpointing"}) == one.model_dump(
            exclude={"gradient_checkpointing"}
        )
    if found.fits:
        refuse_memory(found, recipes, BASE, SIZE, "m.yaml")
        assert memory_note(found) is None
    else:
        assert found.pack == 1
        with pytest.raises(ManifestError):
            refuse_memory(found, recipes, BASE, SIZE, "m.yaml")


@settings(max_examples=30, deadline=None)
@given(keys, st.integers(1, 20))
def test_a_larger_card_never_trains_fewer_jobs_than_fit_on_a_smaller_one(point: dict[str, Any], share: int) -> None:
    largest = [chosen(card(gb), recipe(**point | {"gradient_checkpointing": True}), share=share) for gb in MIB]
    fitting = [found.pack for found in largest if found.fits]
    assert [found.fits for found in largest] == sorted(found.fits for found in largest)
    rounds = [-(-share // pack) for pack in fitting]
    assert rounds == sorted(rounds, reverse=True)


def refusal(gb: int, **written: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        refuse_memory(chosen(card(gb), recipe(**written)), [recipe(**written)], BASE, SIZE, "m.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("gb", "written", "remedy"),
    [
        (24, {"batch_size": 8, "gradient_checkpointing": False}, "; gradient_checkpointing: auto would fit"),
        (12, {"precision": "fp32"}, "; precision: bf16 would fit"),
        (12, {"batch_size": 8}, "; batch_size: 1 would fit"),
        (12, {"batch_size": 8, "gradient_checkpointing": False}, "; gradient_checkpointing: auto, batch_size: 1 would"),
        (12, {"rank": 256}, "; rank: 16 would fit"),
        (12, {"rank": 64, "optimizer": "adamw"}, "; optimizer: adamw8bit would fit"),
        (12, {"rank": 64, "alpha": 8}, "; resolution: 768 would fit"),
        (8, {}, "a quantised base and offloading to the host are not implemented; use a GPU of 12 GB or more"),
        (8, {"precision": "fp32"}, "even with precision: bf16, rank: 4, resolution: 512 it needs 8."),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(gb: int, written: dict[str, Any], remedy: str) -> None:
    said = refusal(gb, **written)
    assert said.startswith("m.yaml: one job needs ")
    assert f"and there are {MIB[gb] / 1024:.1f} (nvidia-smi)" in said
    assert remedy in said


def test_a_remedy_is_true() -> None:
    for gb, written, remedy in [
        (24, {"batch_size": 8, "gradient_checkpointing": False}, {"gradient_checkpointing": "auto"}),
        (12, {"precision": "fp32"}, {"precision": "bf16"}),
        (12, {"rank": 64, "alpha": 8}, {"resolution": 768}),
    ]:
        assert not chosen(card(gb), recipe(**written)).fits
        assert chosen(card(gb), recipe(**written | remedy)).fits
    assert chosen(card(12)).fits  # what 8 GB is told to use


def test_what_nobody_knows_is_noted_and_not_refused() -> None:
    greedy = recipe(batch_size=8, gradient_checkpointing=False)
    found = chosen(Device(True, 22_000.0, "assumed"), greedy)
    refuse_memory(found, [greedy], BASE, SIZE, "m.yaml")
    assert (memory_note(found) or "").endswith("21.5 are assumed; resources.gpu_memory_gib says what there is")
    on_cpu = chosen(Device(False, 9000.0, "this machine"), greedy)
    refuse_memory(on_cpu, [greedy], BASE, SIZE, "m.yaml")
    assert (memory_note(on_cpu) or "").endswith("a lane's share of this machine's memory is 8.8")


def test_a_pack_that_is_asked_for_is_taken_and_doubted() -> None:
    plain = recipe(gradient_checkpointing=False)
    found = chosen(card(24), plain, pack=8)
    assert (found.pack, found.fits) == (8, False)
    refuse_memory(found, [plain], BASE, SIZE, "m.yaml")  # one of them fits
    assert (memory_note(found) or "").endswith("(nvidia-smi); a lane trains what fits")
    assert chosen(card(24), recipe(), pack=8).gradient_checkpointing  # with auto it is made to fit
    assert chosen(card(24), recipe(workers=2, gradient_accumulation=2), pack=8).pack == 1


def test_on_a_cpu_activations_are_kept_while_there_is_room() -> None:
    assert chosen(Device(False, 64_000.0, "this machine"), share=1).gradient_checkpointing is False
    assert chosen(Device(False, 12_800.0, "this machine"), share=1).gradient_checkpointing is True
