"""How many jobs fit, from what those so far have taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorafleet_jobs.train.memory import MemoryBudget


def filled(capacity, fixed, each):
    """A device filled job by job as a lane does; how many it held."""
    room, jobs = MemoryBudget(capacity), 0
    while room.fits_one_more(jobs) and jobs < 64:
        jobs += 1
        room.took(jobs, fixed + jobs * each)
    return jobs


@given(st.floats(100, 80_000), st.floats(0, 500), st.floats(50, 5000))
def test_a_pack_grows_to_what_fits_and_not_beyond(capacity, fixed, each):
    jobs = filled(capacity, fixed, each)
    assert jobs == 1 or fixed + jobs * each <= capacity
    assert jobs == 64 or fixed + (jobs + 1.5) * each * 1.1 > capacity or jobs == 1


def test_a_second_job_waits_until_the_first_was_measured():
    room = MemoryBudget(1000)
    assert room.fits_one_more(0)
    assert not room.fits_one_more(1)
    room.took(1, 300)
    assert room.fits_one_more(1)
    room.took(2, 900)  # the second took 600
    assert not room.fits_one_more(2)


def test_without_a_capacity_there_is_always_room():
    room = MemoryBudget.beside(torch.device("cpu"))
    room.measure(3, torch.device("cpu"))
    assert room.fits_one_more(3)


@pytest.mark.gpu
def test_a_cards_room_is_measured():
    device = torch.device("cuda")
    room = MemoryBudget.beside(device)
    kept = torch.zeros(64, 2**20, dtype=torch.uint8, device=device)
    room.measure(1, device)
    assert room.fits_one_more(1)
    assert room._next(1) == pytest.approx(len(kept), rel=0.1)
