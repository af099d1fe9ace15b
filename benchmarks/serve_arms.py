"""The ways of `serve.py` to make the same pictures: stock diffusers and PEFT in three ways, and the step engine in two.

All get the same prompts, seeds, steps, sampler and guidance, and encode and decode every request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.lora.layer import LoraLayer
from PIL.Image import Image
from serve_traffic import Answered, Asked, one_by_one

from lorafleet.bases import Base
from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GeneratedImage, GenerateRequest
from lorafleet_serve.engine.rows import Call, Row, shared_call
from lorafleet_serve.engine.stepper import Stepper

GUIDANCE = 5.0


class Arm(Protocol):
    """One way to serve."""

    def serve(self, asked: Sequence[Asked]) -> list[Answered]:
        """Makes a picture for each request, none before its time."""

    def close(self) -> None:
        """Ends what it started."""


class Stock:
    """A stock pipeline; the arms below differ in how it comes to its adapters."""

    most = 1
    """Requests a call."""

    def __init__(self, base: Base, bundles: Sequence[Path], steps: int) -> None:
        self.bundles, self.steps = bundles, steps
        self.pipe: Any = StableDiffusionXLPipeline.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
        self.pipe.set_progress_bar_config(disable=True)

    def serve(self, asked: Sequence[Asked]) -> list[Answered]:
        """First come first served."""
        return one_by_one(asked, self.most, self.make)

    def make(self, asked: Sequence[Asked]) -> list[Image]:
        """One call of the pipeline."""
        images: list[Image] = self.pipe(
            prompt=[one.prompt for one in asked], num_inference_steps=self.steps, guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(one.seed) for one in asked],
        ).images  # fmt: skip
        return images

    def close(self) -> None:
        """Nothing was started."""

    def load(self, adapter: int, name: str) -> None:
        self.pipe.load_lora_weights(self.bundles[adapter], weight_name=WEIGHTS, adapter_name=name)


class LoadEach(Stock):
    """(a) Loads the adapter for each request and unloads it after."""

    def make(self, asked: Sequence[Asked]) -> list[Image]:
        """One picture."""
        self.load(asked[0].adapter, "now")
        images = super().make(asked)
        self.pipe.unload_lora_weights()
        return images


class AllResident(Stock):
    """(b) Has all adapters loaded and says before each request which one counts."""

    def __init__(self, base: Base, bundles: Sequence[Path], steps: int) -> None:
        super().__init__(base, bundles, steps)
        for i in range(len(bundles)):
            self.load(i, f"adapter_{i}")

    def make(self, asked: Sequence[Asked]) -> list[Image]:
        """One picture."""
        self.pipe.set_adapters(f"adapter_{asked[0].adapter}")
        return super().make(asked)


class MixedBatches:
    """(c) PEFT's `adapter_names`, one for each row of the UNet, in batches of whoever is there when the last ended.

    On the pipeline of (b). diffusers has no way to pass the names, so every LoRA layer's call gets them by hand.
    """

    def __init__(self, resident: AllResident, most: int) -> None:
        self._resident, self._most = resident, most
        self._layers: list[Any] = [each for each in resident.pipe.unet.modules() if isinstance(each, LoraLayer)]

    def serve(self, asked: Sequence[Asked]) -> list[Answered]:
        """First come first served, in batches."""
        return one_by_one(asked, self._most, self.make)

    def make(self, asked: Sequence[Asked]) -> list[Image]:
        """A batch; guidance stacks all unconditional rows before all conditional ones."""
        names = [f"adapter_{one.adapter}" for one in asked] * 2
        with ExitStack() as hooks:
            for layer in self._layers:
                handle = layer.register_forward_pre_hook(
                    lambda _, args, kwargs: (args, {**kwargs, "adapter_names": names}), with_kwargs=True
                )
                hooks.callback(handle.remove)
            return Stock.make(self._resident, asked)

    def close(self) -> None:
        """Nothing was started."""


def of_one_adapter(row: Row) -> Call:
    """Rows share a call only with rows of the same adapter."""
    return (*shared_call(row), id(row.adapters[0][0]))


class Engine:
    """Ours; (d) with `alone`, where a step has one adapter."""

    def __init__(
        self, model: Pipeline, bundles: Sequence[Path], steps: int, most: int, slot_bytes: int, alone: bool = False
    ) -> None:
        self.engine = StepEngine(model, max_rows=most, max_queue=10_000, slot_bytes=slot_bytes)
        if alone:
            self.engine.stepper = Stepper(model, of_one_adapter)
        self._uses, self._steps = [AdapterUse(version_of(bundle)) for bundle in bundles], steps

    def serve(self, asked: Sequence[Asked]) -> list[Answered]:
        """Submits each request at its time, whatever became of those before."""
        started, ended, futures = time.perf_counter(), dict[int, float](), list[Future[GeneratedImage]]()
        for i, one in enumerate(asked):
            time.sleep(max(0.0, started + one.at - time.perf_counter()))
            request = GenerateRequest(
                one.prompt, one.seed, adapters=(self._uses[one.adapter],), steps=self._steps, guidance_scale=GUIDANCE
            )
            futures.append(self.engine.submit(request))
            futures[-1].add_done_callback(lambda _, i=i: ended.setdefault(i, time.perf_counter() - started))
        images = [future.result().image for future in futures]
        return [Answered(ended.get(i) or time.perf_counter() - started, image) for i, image in enumerate(images)]

    def close(self) -> None:
        """Ends the engine's threads."""
        self.engine.close()
