"""Functions of tensors of fixed shapes that a GPU replays instead of waiting for Python to launch each kernel.

A training step of SDXL launches some 12,000 kernels, which takes Python five times as long as the card needs for the
work itself. So what a key stands for is recorded once as a CUDA graph: its inputs are buffers that each call writes,
its outputs tensors that the next call overwrites. Where there is no CUDA, the same code calls the function on the same
buffers. Knows tensors; refuses to know what is computed.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from cachetools import LRUCache
from torch import Tensor

from lorafleet.errors import first_line

Inputs = Mapping[str, Tensor]
Function = Callable[[Inputs], Sequence[Tensor]]
"""What is captured: its work depends on nothing but the tensors, and it reads no number back from the device."""
MOST_GRAPHS = 32
"""Kept at once, those used last. SDXL at 1024 px has 17 aspect buckets."""
WARM_UPS = 3
"""Runs before the recording: libraries choose their algorithms and allocate their workspaces in the first ones."""
log = logging.getLogger(__name__)


class Calls(Protocol):
    """How functions of tensors are called."""

    def __call__(self, key: Hashable, function: Function, inputs: Inputs) -> Sequence[Tensor]:
        """The outputs of `function(inputs)`, which hold until the next call.

        Equal keys promise functions that do the same with inputs of the same names, shapes, dtypes and devices.
        """
        ...


class PlainCalls:
    """Calls the function, and keeps nothing."""

    def __call__(self, key: Hashable, function: Function, inputs: Inputs) -> Sequence[Tensor]:
        """The outputs of `function(inputs)`."""
        return function(inputs)


class CapturedCalls:
    """Records a function at its key's first call and replays it afterwards. To be used by one thread."""

    def __init__(self, device: torch.device, most: int = MOST_GRAPHS) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._calls: LRUCache[Hashable, Buffered] = LRUCache(most)
        self._plain: set[Hashable] = set()

    @property
    def recorded(self) -> int:
        """How many functions are kept recorded."""
        return len(self._calls)

    def clear(self) -> None:
        """Forgets everything that was recorded."""
        self._calls.clear()
        self._plain.clear()

    def __call__(self, key: Hashable, function: Function, inputs: Inputs) -> Sequence[Tensor]:
        """The outputs of `function(inputs)`; they hold until the next call of this key.

        What cannot be recorded is called plainly from then on, and a warning says so. Raises what the function raises.
        """
        if key not in self._calls and key not in self._plain and not self._record(key, function, inputs):
            self._plain.add(key)
        return function(inputs) if key in self._plain else self._calls[key](inputs)

    def _record(self, key: Hashable, function: Function, inputs: Inputs) -> bool:
        """Whether it could be recorded, perhaps in the memory of the graphs recorded before."""
        for _ in range(2):
            if (problem := self._problem(key, function, inputs)) is None:
                return True
            self._calls.clear()
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        log.warning("a step of this shape cannot be recorded (%s); it is called each time, which is slower", problem)
        return False

    def _problem(self, key: Hashable, function: Function, inputs: Inputs) -> str | None:
        """Records the function, or says why it cannot be; nothing of the failed attempt is held when it returns."""
        try:
            buffers = {name: value.clone() for name, value in inputs.items()}
            pool = self._pool
            self._calls[key] = Buffered(function, buffers) if pool is None else Recorded(function, buffers, pool)
        except RuntimeError as problem:  # out of memory, or an operation that no graph can hold
            return first_line(problem)
        return None


class Buffered:
    """A function and the buffers of its inputs."""

    def __init__(self, function: Function, buffers: Inputs) -> None:
        self._function, self._buffers = function, buffers

    def __call__(self, inputs: Inputs) -> Sequence[Tensor]:
        """Writes the inputs into the buffers and runs the function on them. Raises ValueError for other shapes."""
        if inputs.keys() != self._buffers.keys():
            raise ValueError(f"recorded with {', '.join(self._buffers)}, called with {', '.join(inputs)}")
        for name, buffer in self._buffers.items():
            if (buffer.shape, buffer.dtype) != (inputs[name].shape, inputs[name].dtype):
                raise ValueError(f"{name} was recorded as {_kind(buffer)}, and is {_kind(inputs[name])}")
            buffer.copy_(inputs[name], non_blocking=True)
        return self._run()

    def _run(self) -> Sequence[Tensor]:
        return self._function(self._buffers)


class Recorded(Buffered):
    """The same as a CUDA graph."""

    def __init__(self, function: Function, buffers: Inputs, pool: Any) -> None:
        super().__init__(function, buffers)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(buffers)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # other threads encode and decode on the card meanwhile
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = function(buffers)

    def _run(self) -> Sequence[Tensor]:
        self._graph.replay()
        return self._outputs


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
