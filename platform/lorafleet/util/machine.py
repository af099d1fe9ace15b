"""Names the machine a figure was measured on, and who works at it."""

from __future__ import annotations

import getpass
import os
import platform
from pathlib import Path


def describe_machine() -> str:
    """Processor and cores, as in "AMD EPYC, 2 cores"; the architecture where the system does not name the model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def this_user() -> str:
    """The name of the user whose process this is; its number where the system knows no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return str(os.getuid())
