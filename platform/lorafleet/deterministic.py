"""Makes equal calls give equal bits in this process, which `exact` needs from torch in training and in serving.

Unequal calls are not covered: a row's bits depend on the shape of its batch and, on many processors, on its place
there. Whoever promises bits must also make the same call each time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORKSPACES = (":4096:8", ":16:8")
"""Settings with which cuBLAS's products repeat their bits whatever other streams do (its "Results reproducibility")."""


def use_deterministic_algorithms(device: torch.device | str) -> None:
    """For the rest of this process no operation on `device` may choose a kernel whose bits vary from run to run.

    Call it before the first product on a GPU: cuBLAS reads its setting once, when it starts. Flash and memory-efficient
    attention then take their deterministic backward passes, cuDNN neither tries algorithms out nor takes those that add
    in an order of their own, and an operation that has no deterministic form raises RuntimeError. On a CPU the same
    setting ends one variation: several threads adding to the rows of one table (token vectors' gradients) otherwise do
    it in any order. Products and convolutions there repeat their bits anyway for one number of threads.
    """
    import torch
    import torch.utils.deterministic

    if torch.device(device).type == "cuda":
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = WORKSPACES[0]
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # a debugging aid that writes every new tensor twice; torch's stubs do not know it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
