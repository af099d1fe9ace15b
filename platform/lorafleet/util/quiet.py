"""Silences other libraries' messages on users' terminals; errors still reach users as exceptions."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silences progress bars, advice and information of transformers, diffusers and friends, in this process."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded at run time
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    for name in ("transformers", "diffusers", "torch.distributed", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|diffusers|peft|ray)\b")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
