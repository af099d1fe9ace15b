"""Engine steps at SDXL's size, every image with another adapter, and the engine as it runs: encode, steps, decode."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpu_device import Place
from gpu_report import Cell, Figure, Found, Task
from serve_swap import host_of, row_of, swap, using
from serve_traffic import random_bundles

from lorafleet.targets import UNET
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import GenerateRequest
from lorafleet_serve.engine.rows import Row
from lorafleet_serve.engine.stepper import Stepper, stepper_for
from lorafleet_serve.stats import Counts

RANK, GUIDANCE, ADAPTERS = 16, 5.0, 9
STEPS = 20
"""Of an image, as in MLPerf's SDXL benchmark."""


class ServingCells:
    """Steps of one base with adapters for its rows."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._model: Pipeline | None = None
        self._bundles: list[Path] = []
        self._hosts: list[HostAdapter] = []
        self._prompts = 0

    def tasks(self) -> list[Task]:
        """In the order of their worth."""
        return [
            Task("images", 30, lambda: self.steps((1, 8))),
            Task("engine", 35, lambda: self.engine(8, capture=True)),
            Task("a new adapter joins", 12, self.joining),
            Task("encode, decode", 10, self.parts),
            Task("swap", 5, self.swapping),
            Task("images, 512 px", 15, lambda: self.steps((1, 8), 512)),
            Task("more images", 20, lambda: self.steps((2, 4))),
            Task("images, plain steps", 15, lambda: self.steps((1, 8), capture=False)),
            Task("engine, plain steps", 40, lambda: self.engine(8, capture=False)),
        ]

    @property
    def model(self) -> Pipeline:
        """Loaded once, with its adapters in host memory."""
        if self._model is None:
            self._model = Pipeline(self.place.base())
            shapes = self._model.loaded.lora[UNET].shapes()
            folder = self.place.folder / "served"
            self._bundles = random_bundles(folder, self._model.base, shapes, ADAPTERS, [RANK])
            self._hosts = [host_of(self._model, bundle) for bundle in self._bundles]
        return self._model

    def rows(self, numbers: Sequence[int], pixels: int, steps: int = 1000) -> list[Row]:
        """So many rows, each with another adapter that was not on the device before."""
        model = self.model
        device_cache = DeviceAdapterCache(model.loaded.device, 2**40, Counts())
        return [
            row_of(model, device_cache, self._bundles[i], self._hosts[i], self.request(i, pixels, min(steps, 50)), i)
            for i in numbers
        ]

    def request(self, i: int, pixels: int, steps: int) -> GenerateRequest:
        """With the i-th adapter, and a prompt that was never asked for."""
        self._prompts += 1
        side = self.place.pixels(pixels)
        prompt = f"a photo of TOK mug {self._prompts}"
        return GenerateRequest(
            prompt, i, adapters=using(self._bundles[i]), steps=steps, guidance_scale=GUIDANCE, width=side, height=side
        )

    def steps(self, counts: Sequence[int], pixels: int = 1024, capture: bool = True) -> list[Found]:
        """Batches of so many images."""
        place, found = self.place, list[Found]()
        for count in counts:
            rows = self.rows(range(count), pixels)
            place.forget_peak()
            stepper = stepper_for(self.model, exact=False, capture=capture)
            first = place.seconds(lambda rows=rows, stepper=stepper: stepper.step(rows))

            def step(rows: list[Row] = rows, stepper: Stepper = stepper) -> None:
                rows[:] = stepper.step(rows)

            ms, syncs = place.milliseconds(step), place.syncs(step)
            what = f"images x {count}" + ("" if capture else ", not recorded")
            floor = place.floor_ms(place.pixels(pixels), 2 * count)
            found.append(Cell(what, place.pixels(pixels), count, ms, first, floor, place.peak_gib(), syncs))
            stepper.forget()
        return found

    def engine(self, rows: int, capture: bool) -> list[Found]:
        """Images a second of the engine as it runs, twice as many requests as it has rows, all at once."""
        engine = StepEngine(self.model, max_rows=rows, max_queue=4 * rows, capture=capture)
        steps = 2 if self.place.dry else STEPS

        def images(count: int, steps: int) -> float:
            futures = [engine.submit(self.request(i % ADAPTERS, 1024, steps)) for i in range(count)]
            return self.place.seconds(lambda: [future.result() for future in futures])

        try:
            for count in (1, 2, 4, rows):
                images(count, steps)  # what is recorded once is not what is measured
            seconds = images(2 * rows, steps)
        finally:
            engine.close()
        how = "recorded" if capture else "plain"
        return [Figure(f"engine, {rows} rows, {steps} {how} steps an image", 2 * rows / seconds, "images/s")]

    def joining(self) -> list[Found]:
        """What a step takes in which one of eight images gives way to a new one, against the step before."""
        place, stepper = self.place, stepper_for(self.model, exact=False, capture=True)
        rows = self.rows(range(8), 1024)
        joins, others = list[float](), list[float]()
        for number in range(4 if place.dry else 12):
            joins_now = number % 3 == 2
            if joins_now:
                rows = [*rows[1:], replace(self.rows([number % ADAPTERS], 1024)[0], id=100 + number)]
            started = place.now()
            rows = stepper.step(rows)
            taken = place.now() - started
            if number > 1:
                (joins if joins_now else others).append(taken)
        stepper.forget()
        ratio = statistics.median(joins) / statistics.median(others)
        return [Figure("a step in which a new adapter joins, against its neighbours", ratio, "times")]

    def parts(self) -> list[Found]:
        """Milliseconds of an image beside its steps."""
        place, model = self.place, self.model
        rows = self.rows([0], 1024)
        encode = statistics.median(place.seconds(lambda: self.rows([0], 1024)) for _ in range(4))
        decode = statistics.median(place.seconds(lambda: model.loaded.decode(rows[0].x)) for _ in range(4))
        return [
            Figure("encode: prompt, noise, adapter to the device", 1000 * encode, "ms"),
            Figure("decode", 1000 * decode, "ms"),
        ]

    def swapping(self) -> list[Found]:
        """An adapter from host memory to its slot."""
        taken = swap(self.model, self._bundles[:2], 20)
        return [
            Figure("adapter to slot", taken.slot, "ms"),
            Figure("adapter to slot, against a plain copy", taken.slot_times, "times"),
        ]
