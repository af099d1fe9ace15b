"""What a CUDA graph cannot hold, seen where there is no GPU: operations that tell the host a number."""

from contextlib import contextmanager
from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode

from lorafleet.numerics.captured import Buffered

SYNCHRONIZES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave.Tensor")


class HostReads(TorchDispatchMode):
    """Notes the operations that wait for the device, in the order in which they were met."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        indices = args[1] if name.startswith(("index.Tensor", "index_put")) else ()
        if name.startswith(SYNCHRONIZES) or any(i is not None and i.dtype.itemsize == 1 for i in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads():
    """A list that fills with what recorded functions ask while the block runs, and how many were run."""
    found, runs, run = [], [], Buffered._run

    def watched(self):
        runs.append(self)
        with HostReads(found):
            return run(self)

    with patch.object(Buffered, "_run", watched):
        yield found, runs
