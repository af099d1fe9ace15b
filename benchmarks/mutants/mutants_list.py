"""Every mutant, by the room it is in."""

from __future__ import annotations

import mutants_numerics
import mutants_platform
import mutants_queue
import mutants_serving
import mutants_training
from mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *mutants_numerics.MUTANTS,
    *mutants_training.MUTANTS,
    *mutants_queue.MUTANTS,
    *mutants_platform.MUTANTS,
    *mutants_serving.MUTANTS,
)
