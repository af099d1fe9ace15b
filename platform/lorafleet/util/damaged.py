"""What Pillow's decoders and libheif raise on damaged files. Refuses to know what is said of them, and to whom."""

from __future__ import annotations

import struct
import zlib

DAMAGE = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError, MemoryError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip
