"""Rows of one kind are neighbours, few move, and the factors gathered are those that `factors.stack` would stack."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.numerics.captured import CapturedCalls
from lorafleet.numerics.factors import Factors, stack
from lorafleet.numerics.text import Conditioning
from lorafleet_serve.adapters.layout import ColumnLayout, FlatAdapter
from lorafleet_serve.engine.batch_layout import BatchLayout, reorder
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.requests import GenerateRequest, with_defaults
from lorafleet_serve.engine.rows import Row
from lorafleet_serve.engine.static_layout import StaticLayout
from lorafleet_serve.engine.stepper import IDLE, Stepper
from recordable import host_reads

BASE = find_base("toy-playground")
SHAPES = {"block.0.to_q": (6, 4), "block.0.ff": (4, 10), "block.1.to_q": (6, 4), "block.1.ff": (4, 10), "proj": (3, 5)}
LAYOUT = ColumnLayout.of(SHAPES)
kinds = st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=10)


@settings(max_examples=300, deadline=None)
@given(st.lists(kinds, min_size=1, max_size=8))
def test_rows_are_in_order_of_kind_and_keep_their_position_where_they_can(history):
    before, kept = [], {}
    for now in history:
        now = {row: kept.get(row, kind) for row, kind in now.items()}  # a row never changes its kind
        kept |= now
        order = reorder(before, now)
        assert sorted(order) == sorted(now)
        assert [now[row] for row in order] == sorted(now.values())
        for position, row in enumerate(before[: len(order)]):
            if row in now and now[row] == sorted(now.values())[position]:
                assert order[position] == row
        before = order


def adapter(seed, rank, names, dora=False):
    """Factors by layer, and the same laid out flat."""
    generator, layers = torch.Generator().manual_seed(seed), {}
    for name in names:
        n_in, n_out = SHAPES[name]
        A, B = torch.randn(rank, n_in, generator=generator), torch.randn(n_out, rank, generator=generator)
        m = torch.rand(n_out, generator=generator) + 0.5 if dora else None
        layers[name] = Factors(A, B, m).with_norms(torch.randn(n_out, n_in, generator=generator))
    return layers, FlatAdapter.of(layers, LAYOUT, torch.float32)


QUERY = ("block.0.to_q", "block.1.to_q")
ADAPTERS = {
    "attention": adapter(1, 2, QUERY),
    "lower": adapter(5, 1, QUERY),
    "all": adapter(2, 5, tuple(SHAPES)),
    "dora": adapter(3, 3, tuple(SHAPES)[1:], dora=True),
    "one": adapter(4, 1, ("proj",), dora=True),
}


def row(number, adapters=(), guidance=3.0):
    """A row of 1 x 2 x 2 with conditioning that names it."""
    flat = tuple((ADAPTERS[name][1], scale) for name, scale in adapters)
    positive = Conditioning(torch.full((1, 4, 2), float(number)), torch.full((1, 2), float(number)))
    negative = Conditioning(-positive.context, -positive.pooled)
    latent = torch.zeros(1, 1, 2, 2)
    request = GenerateRequest("", number, guidance_scale=guidance)
    return Row(
        id=number,
        settings=with_defaults(request, BASE, ("edm-euler",)),
        table=None,
        noise=None,
        adapters=flat,
        positive=positive,
        negative=negative,
        time_ids=torch.full((1, 6), number),
        x=latent,
        x0_prev=latent,
    )


adapters = st.lists(st.tuples(st.sampled_from(sorted(ADAPTERS)), st.sampled_from([1.0, -0.5, 2.0])), max_size=3)
rows = st.lists(st.tuples(adapters, st.sampled_from([0.0, 3.0])), min_size=1, max_size=6)


def carried(batch, at, name):
    """What one UNet row's layer adds: B A, and the gain."""
    n_in, n_out = SHAPES[name]
    for span, stacked in batch.slices:
        if name in stacked and span.start <= at < span.stop:
            layer = stacked[name]
            group = (at - span.start) * len(layer.A) // (span.stop - span.start)
            return layer.B[group] @ layer.A[group], torch.ones(n_out) if layer.gain is None else layer.gain[group]
    return torch.zeros(n_out, n_in), torch.ones(n_out)


def static_layout():
    return StaticLayout(LAYOUT, torch.device("cpu"), torch.float32, lambda: None)


def dynamic_layout():
    return BatchLayout(LAYOUT, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("layout_of", [dynamic_layout, static_layout])
@settings(max_examples=40, deadline=None)
@given(history=st.lists(rows, min_size=1, max_size=4))
def test_what_is_gathered_is_what_would_be_stacked(layout_of, history):
    """Whatever was there before, every UNet row carries the factors that its own adapters come to."""
    layout, here, number = layout_of(), [], 0
    for drawn in history:
        here = here[1::2]  # every other one leaves
        for names, guidance in drawn:
            here.append((row(number := number + 1, names, guidance), names))
        here = here[:6]
        check(layout.batch([one for one, _ in here]), here)


def check(batch, together):
    for index, (one, names) in enumerate(together):
        wanted = stack([[(ADAPTERS[name][0], scale) for name, scale in names]])
        u, c = int(batch.u[index]), int(batch.c[index])
        for name, at in product(SHAPES, {u, c}):
            assert int(batch.rows[at]) == index
            n_in, n_out = SHAPES[name]
            full, gain = torch.zeros(n_out, n_in), torch.ones(n_out)
            if name in wanted:
                full = wanted[name].B[0] @ wanted[name].A[0]
                gain = gain if wanted[name].gain is None else wanted[name].gain[0]
            torch.testing.assert_close(carried(batch, at, name), (full, gain), atol=1e-5, rtol=1e-4)
        assert batch.conditioning.context[c, 0, 0] == one.id
        assert batch.conditioning.context[u, 0, 0] == (-one.id if one.guided else one.id)
        assert batch.time_ids[c, 0] == one.id


def test_unguided_and_base_rows_cost_what_they_must():
    rows = [row(1, [("all", 1.0)]), row(2, [("all", 1.0)], 0.0), row(3), row(4, (), 1.0)]
    batch = BatchLayout(LAYOUT, torch.device("cpu"), torch.float32).batch(rows)
    assert batch.rows.tolist() == [0, 0, 1, 2, 2, 3]
    assert [span for span, _ in batch.slices] == [slice(0, 2), slice(2, 3)]  # none for the base
    assert all(stacked["proj"].A.shape[0] == 1 for _, stacked in batch.slices)  # a pair shares its factors
    alone = BatchLayout(LAYOUT, torch.device("cpu"), torch.float32).batch(rows[2:])
    assert alone.slices == ()


def test_a_row_that_keeps_its_position_is_not_written_again():
    layout = BatchLayout(LAYOUT, torch.device("cpu"), torch.float32)
    rows = [row(n, [("all", 1.0)]) for n in range(4)]
    layout.batch(rows)
    assert layout.written == 4
    layout.batch([*rows[:1], *rows[2:]])  # the last moves to the free position
    assert layout.written == 5
    layout.batch([*rows[:1], *rows[2:], row(9, [("dora", 1.0)])])
    assert layout.written == 6
    layout.batch([*rows[:1], *rows[2:], row(9, [("dora", 1.0)]), row(10)])  # a base row comes after them
    assert layout.written == 6


@pytest.mark.parametrize("after", ["lower", "all", "dora"])
@pytest.mark.parametrize("before", ["attention", "dora"])
def test_nothing_is_left_of_the_row_that_was_there_before(before, after):
    layout, stays = BatchLayout(LAYOUT, torch.device("cpu"), torch.float32), [("all", 1.0)]
    layout.batch([row(1, [(before, 1.0)]), row(2, stays)])
    together = [(row(3, [(after, 1.0)]), [(after, 1.0)]), (row(2, stays), stays)]
    check(layout.batch([one for one, _ in together]), together)
    assert layout.written == 3


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_a_batch_of_one_image_has_nothing_beside_it(guidance):
    layout = BatchLayout(LAYOUT, torch.device("cpu"), torch.float32)
    batch = layout.batch([row(1, [("all", 1.0)], guidance)])
    count = 2 if guidance else 1
    assert batch.rows.tolist() == [0] * count
    assert len(batch.conditioning.context) == len(batch.time_ids) == count
    ((span, stacked),) = batch.slices
    assert span == slice(0, count)
    assert stacked["proj"].A.shape == (1, 8, 3)  # rank 5, padded for a join that never comes


def test_a_static_batch_has_one_place_in_memory_whoever_joins_and_leaves():
    replaced = []
    layout = StaticLayout(LAYOUT, torch.device("cpu"), torch.float32, lambda: replaced.append(1))
    wide = [row(1, [("all", 1.0)]), row(2, [("dora", 1.0)]), row(3, [("all", 1.0), ("lower", 2.0)])]
    both = [("all", 1.0), ("lower", 2.0)]
    first = layout.batch(wide)
    assert (len(first.rows), len(first.u), first.padding) == (8, 4, 1)
    assert len(replaced) == 1
    others = [wide[2], row(4, [("attention", 1.0)]), row(5), row(6, [("one", -0.5)])]
    second = layout.batch(others)
    assert second.captured == first.captured
    assert second.padding == 0
    ((_, before),), ((_, after),) = first.slices, second.slices
    assert {name: layer.A.data_ptr() for name, layer in before.items()} == {
        name: layer.A.data_ptr() for name, layer in after.items()
    }
    check(second, list(zip(others, [both, [("attention", 1.0)], [], [("one", -0.5)]], strict=True)))
    alone = layout.batch(others[:1])
    assert (len(alone.rows), alone.padding) == (2, 0)
    assert layout.batch(wide).captured == first.captured, "its buffers are kept while fewer rows step"
    layout.batch([row(7, [("all", 1.0), ("all", 1.0)])])
    assert len(replaced) == 2, "rank 10 needs wider buffers"
    assert layout.batch(wide).captured != first.captured


def test_what_a_recorded_step_cannot_hold_is_laid_out_as_ever():
    layout = static_layout()
    assert layout.batch([row(1), row(2, [("all", 1.0)], guidance=0.0)]).captured is None
    assert layout.batch([row(1), row(3)]).captured == (), "of the base alone"


@pytest.mark.parametrize(("captured", "idle", "left"), [(False, 3, 0), (True, 3, 3), (True, IDLE + 2, IDLE)])
def test_few_layouts_outlive_their_rows_and_only_where_graphs_read_them(playground, captured, idle, left):
    stepper = Stepper(playground.model, calls=CapturedCalls(torch.device("cpu")) if captured else None)
    for size in range(1, idle + 1):
        stepper._layouts[size, size, 77] = dynamic_layout()
    stepper.keep(())
    assert list(stepper._layouts) == [(size, size, 77) for size in range(idle - left + 1, idle + 1)]


def test_a_recorded_denoising_step_reads_nothing_back(playground, use):
    """As no CUDA graph could; of guided rows with adapters, DoRA and rescaled guidance."""
    made = StepEngine(playground.model, max_rows=4)
    made.stepper = Stepper(playground.model, calls=CapturedCalls(torch.device("cpu")))
    requests = [
        GenerateRequest("a dog", 1, steps=2, guidance_rescale=0.7),
        GenerateRequest("<dog-rex>", 2, adapters=(use(made, "dog-rex"),), steps=2),
        GenerateRequest("<dora>", 3, adapters=(use(made, "dora"),), steps=3),
    ]
    try:
        with host_reads() as (found, runs):
            for future in [made.submit(request) for request in requests]:
                future.result(60)
    finally:
        made.close()
    assert found == []
    assert runs
