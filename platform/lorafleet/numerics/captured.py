"""Functions of tensors of fixed shapes that a GPU replays instead of waiting for Python to launch each kernel.

A training step of SDXL launches some 12,000 kernels, which takes Python five times as long as the card needs for the
work itself. So what a key stands for is recorded once as a CUDA graph: its inputs are buffers that each call writes,
its outputs are copied from where the graph leaves them. Where there is no CUDA, the same code calls the function on
the same buffers. Knows tensors; refuses to know what is computed.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
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
        """The outputs of `function(inputs)`, the caller's to keep.

        Equal keys promise functions that do the same with inputs of the same names, shapes, dtypes and devices.
        """
        ...

    def differentiable(self, key: Hashable, function: Function, inputs: Inputs, variables: Inputs) -> Sequence[Tensor]:
        """The outputs of `function({**inputs, **variables})`, differentiable in `variables`; theirs to keep."""
        ...

    def padded(self, rows: int, most: int = 0) -> int:
        """How many rows a call should have that needs so many now and `most` at other times, for few shapes."""
        ...

    def clear(self) -> None:
        """Frees what is kept."""
        ...


class PlainCalls:
    """Calls the function, and keeps nothing."""

    def __call__(self, key: Hashable, function: Function, inputs: Inputs) -> Sequence[Tensor]:
        """The outputs of `function(inputs)`."""
        return function(inputs)

    def differentiable(self, key: Hashable, function: Function, inputs: Inputs, variables: Inputs) -> Sequence[Tensor]:
        """The outputs of the function, as autograd sees it."""
        return function({**inputs, **variables})

    def padded(self, rows: int, most: int = 0) -> int:
        """No more than needed: any shape will do."""
        return rows

    def clear(self) -> None:
        """Nothing is kept."""


class CapturedCalls:
    """Records a function at its key's first call and replays it afterwards. To be used by one thread."""

    def __init__(self, device: torch.device, most: int = MOST_GRAPHS) -> None:
        self._device = device
        self._pool: Any = None
        self._calls: LRUCache[Hashable, Buffered] = LRUCache(most)
        self._plain: set[Hashable] = set()

    @property
    def recorded(self) -> int:
        """How many functions are kept recorded."""
        return len(self._calls)

    def padded(self, rows: int, most: int = 0) -> int:
        """The power of two that is smaller than neither."""
        return 1 << (max(rows, most) - 1).bit_length() if rows else 0

    def clear(self) -> None:
        """Forgets everything that was recorded."""
        self._calls.clear()
        self._plain.clear()

    def __call__(self, key: Hashable, function: Function, inputs: Inputs) -> Sequence[Tensor]:
        """The outputs of `function(inputs)`.

        What cannot be recorded is called plainly from then on, and a warning says so. Raises what the function raises.
        """
        self._prepare(key, function, inputs)
        return function(inputs) if key in self._plain else self._calls[key](inputs)

    def differentiable(self, key: Hashable, function: Function, inputs: Inputs, variables: Inputs) -> Sequence[Tensor]:
        """The outputs; the backward pass runs the function once more, so that both passes can be recorded.

        That takes less than a step waits for Python where the function is small beside what uses its outputs.
        """
        forward, backward = (key, "forward"), (key, "backward")
        if not any(each.requires_grad for each in variables.values()):
            return self(forward, function, {**inputs, **variables})
        names = tuple(variables)
        ways = (forward, function), (backward, partial(_gradients, function, names))
        outputs: tuple[Tensor, ...] = _Recomputed.apply(self, ways, inputs, names, *variables.values())  # type: ignore[no-untyped-call]
        return outputs

    def _prepare(self, key: Hashable, function: Function, inputs: Inputs) -> None:
        """Records the function, if that was not tried before."""
        if key not in self._calls and key not in self._plain and not self._record(key, function, inputs):
            self._plain.add(key)

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
            buffers = {name: value.detach().clone() for name, value in inputs.items()}
            if self._device.type != "cuda":
                self._calls[key] = Buffered(function, buffers)
                return None
            if not self._calls:  # a pool goes with the last of its graphs
                self._pool = torch.cuda.graph_pool_handle()
            self._calls[key] = Recorded(function, buffers, self._pool)
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
        return [output.clone() for output in self._outputs]  # graphs share memory: the next one's replay writes there


class _Recomputed(torch.autograd.Function):
    """A function whose backward pass is the function once more, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        calls: CapturedCalls,
        ways: tuple[tuple[Hashable, Function], tuple[Hashable, Function]],
        inputs: Inputs,
        names: tuple[str, ...],
        *values: Tensor,
    ) -> tuple[Tensor, ...]:
        (key, function), (backward_key, backward) = ways
        both = {**inputs, **dict(zip(names, values, strict=True))}
        outputs = tuple(calls(key, function, both))
        # recorded now: autograd calls `backward` on a thread of its own
        calls._prepare(backward_key, backward, {**both, **_given([torch.zeros_like(each) for each in outputs])})
        ctx.call, ctx.inputs, ctx.names = partial(calls, backward_key, backward), inputs, names
        ctx.save_for_backward(*values)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        values = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        found = ctx.call({**ctx.inputs, **values, **_given(gradients)})
        return (None, None, None, None, *found)


def _given(gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    """The gradients of a function's outputs as inputs of its backward pass."""
    return {f"gradient {i}": each for i, each in enumerate(gradients)}


def _gradients(function: Function, names: Sequence[str], inputs: Inputs) -> Sequence[Tensor]:
    """Those of the function's outputs with respect to the inputs `names`, from the outputs' own."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        outputs = function({**inputs, **leaves})
    given = [inputs[f"gradient {i}"] for i in range(len(outputs))]
    return torch.autograd.grad(outputs, list(leaves.values()), given)


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
