"""The step engine: rows join and leave between denoising steps, whatever their adapters, samplers and step counts.

    submit -> bounds checked -> adapters to host memory (loader threads)
           -> encoder thread: adapters to the device cache, prompts encoded -> row ready
           -> stepping thread, again and again: one UNet call, of the oldest rows that may share it
           -> decoder thread: finished latents become images, one at a time

Knows neither Ray nor HTTP. A request that fails, is cancelled or turns non-finite leaves the others untouched.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from lorafleet.deterministic import use_deterministic_algorithms
from lorafleet.errors import BusyError, LorafleetError, UnreachableError
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter, HostAdapterCache, HostLoader
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.request_state import RequestState, fail, make_row, succeed
from lorafleet_serve.engine.requests import GeneratedImage, GenerateRequest, with_defaults
from lorafleet_serve.engine.rows import Call, Row, Shape, non_finite
from lorafleet_serve.engine.scheduler import RoundRobin, StepBudget, check_step_limit
from lorafleet_serve.engine.stepper import finite, stepper_for
from lorafleet_serve.stats import Counts, EngineStats
from lorafleet_serve.worker_thread import Stage, synchronize

REQUEST_ERRORS = (LorafleetError, RuntimeError, CancelledError)
"""What one request can raise on a thread of the engine without harming the others; torch's own are RuntimeErrors."""
STOPPED = "the engine stopped before this image was finished; send the request again"
CLOSING = "the server is shutting down; send the request again later"


class StepEngine:
    """Makes images from requests of any mix. `submit` from any thread; `close` once."""

    def __init__(
        self,
        model: Pipeline,
        max_rows: int = 8,
        max_queue: int = 64,
        *,
        max_step_ms: float | None = None,
        exact: bool = False,
        capture: bool = True,
        slot_bytes: int = 4 * 2**30,
        host_bytes: int = 8 * 2**30,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """At most `max_rows` images are denoised at a time, and no more than fit in a step of `max_step_ms`.

        `exact`: an image's bits depend on its request alone, at the price of UNet calls of its own (`rows.own_call`).
        `capture`: on a GPU steps are CUDA graphs that are replayed, but in an exact engine. `slot_bytes` and
        `host_bytes` bound adapters on the device and in host memory.
        """
        check_step_limit(max_step_ms, exact)
        self.model, self.max_rows, self.max_queue = model, max_rows, max_queue
        self._clock, self._counts, device = clock, Counts(), model.loaded.device
        if exact:
            use_deterministic_algorithms(device)
        self.host_cache = HostAdapterCache(HostLoader(model.loaded, model.columns), self._counts, host_bytes)
        self.device_cache = DeviceAdapterCache(device, slot_bytes, self._counts)
        self.stepper = stepper_for(model, exact, capture)
        self._scheduler, self._budget, self._ids = RoundRobin[Call](), StepBudget[Shape](max_step_ms), count()
        self._changed = threading.Condition(threading.RLock())  # guards the seven below
        self._open: dict[int, Future[GeneratedImage]] = {}  # accepted and not ended
        self._stepped: set[int] = set()  # ids of `_open` that were denoised at all
        self._ready: deque[tuple[RequestState, Row]] = deque()
        self._closing = self._abandon = self._broken = False
        self._heartbeat = time.monotonic()
        self._running: dict[int, tuple[RequestState, Row]] = {}  # the stepping thread's own
        self._encoder = Stage[RequestState]("encoder", self._encode, self._fail_open, device)
        self._decoder = Stage[tuple[RequestState, Tensor]]("decoder", self._decode, self._fail_open, device)
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest) -> Future[GeneratedImage]:
        """Queues a request. RequestError beyond the base's bounds, BusyError if the queue is full or the engine closes.

        Later errors (BundleError, NonFiniteError, torch's own) are in the future. Cancelling the future frees the row
        at the next step.
        """
        settings = with_defaults(request, self.model.base, self.model.samplers)
        future: Future[GeneratedImage] = Future()
        with self._changed:
            self._check_queue()
            id_ = next(self._ids)
            self._open[id_] = future
        future.add_done_callback(lambda done: self._on_done(id_, done))
        loads = tuple(self.host_cache.fetch(use.adapter.path) for use in request.adapters)
        self._when_loaded(RequestState(id_, settings, loads, future))
        return future

    def stats(self) -> EngineStats:
        """The counts so far, and how many rows run and wait now."""
        with self._changed:
            waiting = len(self._open.keys() - self._stepped)
        return replace(
            self._counts.read(),
            rows_running=len(self._running),
            rows_waiting=waiting,
            slot_bytes=self.device_cache.nbytes,
            prompt_hits=self.model.prompt_hits,
            prompt_misses=self.model.prompt_misses,
        )

    def adapters_held(self) -> set[str]:
        """Resolved folders of the bundles that are in host memory or on the device."""
        return {folder for folder, _ in self.host_cache.held() | self.device_cache.held()}

    def check(self, stalled_after: float = 600.0) -> None:
        """UnreachableError if a thread died, or no step was finished for longer than `stalled_after` seconds."""
        if self._broken or not self._thread.is_alive():
            raise UnreachableError("a thread of the engine has ended; restart the server")
        with self._changed:
            stalled = time.monotonic() - self._heartbeat if self._running else 0.0
        if stalled > stalled_after:
            raise UnreachableError(f"the engine has not finished a step for {stalled:.0f} s; restart the server")

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Ends the engine: finishes what was accepted, or with `drain` false fails it with BusyError."""
        with self._changed:
            self._closing, self._abandon = True, not drain
            self._changed.notify_all()
        self._thread.join(timeout)
        self.host_cache.close()
        self._encoder.close()
        self._decoder.close()

    # ---- from a request to a row: callers' and loaders' threads, then the encoder's

    def _check_queue(self) -> None:
        if self._closing:
            raise BusyError(CLOSING)
        if len(self._open) >= self.max_rows + self.max_queue:
            raise BusyError(
                f"{len(self._open)} requests are waiting or running; at most {self.max_rows + self.max_queue} are; "
                "send the request again later"
            )

    def _when_loaded(self, state: RequestState) -> None:
        pending = next((load for load in state.loads if not load.done()), None)
        if pending is None:
            self._encoder.put(state)
        else:
            pending.add_done_callback(lambda _: self._when_loaded(state))

    def _encode(self, state: RequestState) -> None:
        """Makes a request's row once fewer than `max_rows` are ready and its adapters fit on the device."""
        try:
            adapters = state.host_adapters
            self.device_cache.check(adapters)
            with self._changed:
                self._changed.wait_for(lambda: self._not_wanted(state) or self._may_encode(adapters))
            if self._not_wanted(state):
                return
            self.device_cache.lease(adapters)
            try:
                row = make_row(state, self.model, self.device_cache)
                synchronize(self.model.loaded.device)
            except REQUEST_ERRORS:
                self._release(state)
                raise
        except REQUEST_ERRORS as problem:
            fail(state.future, problem)
            return
        with self._changed:
            self._ready.append((state, row))
            self._changed.notify_all()

    def _not_wanted(self, state: RequestState) -> bool:
        return state.future.done() or self._should_end()

    def _may_encode(self, adapters: list[HostAdapter]) -> bool:
        return len(self._ready) < self.max_rows and self.device_cache.admits(adapters)

    # ---- the stepping thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._schedule()
        finally:
            self._fail_open()

    def _wait(self) -> bool:
        """Waits for rows and lets new ones join; false when the thread should end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._running or self._should_end())
            if self._should_end():
                return False
            self._heartbeat = time.monotonic()
            while self._ready and len(self._running) < self.max_rows:
                state, row = self._ready.popleft()
                self._running[state.id] = state, row
                self._stepped.add(state.id)
            self._changed.notify_all()
        return True

    def _should_end(self) -> bool:
        return self._broken or (self._closing and (self._abandon or not self._open))

    def _schedule(self) -> None:
        """Drops cancelled rows, then steps the oldest rows of the next call, as many as the budget allows."""
        for id_ in [id_ for id_, (state, _) in self._running.items() if state.future.done()]:
            self._remove(id_)
        if self._running:
            calls = {id_: self.stepper.call(row) for id_, (_, row) in self._running.items()}
            call = self._scheduler.next(list(calls.values()))
            rows = [row for id_, (_, row) in self._running.items() if calls[id_] == call]
            self._step(rows[: self._budget.choose(rows[0].shape, [row.unet_rows for row in rows])])
        self.stepper.keep({self.stepper.call(row) for _, row in self._running.values()})

    def _step(self, rows: list[Row]) -> None:
        try:
            unet_rows = len(self.stepper.prepare(rows).rows)
            started = self._clock()
            stepped = self.stepper.step(rows)
            are_finite = finite(stepped)
        except torch.AcceleratorError:
            raise  # the device is lost to this process: every thread of the engine ends, and a new one must be started
        except RuntimeError as problem:
            self._recover(rows, problem)
            return
        seconds = self._clock() - started
        self._budget.observe(rows[0].shape, unet_rows, 1000 * seconds)
        self._counts.add(steps=1, unet_rows=unet_rows, step_seconds=seconds)
        for row, is_finite in zip(stepped, are_finite, strict=True):
            state = self._running[row.id][0]
            self._running[row.id] = state, row
            if not is_finite:
                self._remove(row.id)
                fail(state.future, non_finite(row))
            elif row.done:
                self._remove(row.id)
                self._decoder.put((state, row.x))  # without the row, whose adapters are released

    def _recover(self, rows: list[Row], problem: RuntimeError) -> None:
        """After a failed step: a single row fails, too many for memory become fewer, others are stepped one by one."""
        self.stepper.forget()
        if len(rows) == 1:
            state, _ = self._running[rows[0].id]
            self._remove(rows[0].id)
            fail(state.future, problem)
        elif isinstance(problem, torch.OutOfMemoryError):
            self._budget.too_many(rows[0].shape, sum(row.unet_rows for row in rows))
        else:
            for row in rows:
                self._step([row])

    def _remove(self, id_: int) -> None:
        self._release(self._running.pop(id_)[0])

    def _release(self, state: RequestState) -> None:
        self.device_cache.release(state.host_adapters)
        with self._changed:
            self._changed.notify_all()

    # ---- from a row to the image: the decoder's thread, and any thread that ends a future

    def _decode(self, stepped: tuple[RequestState, Tensor]) -> None:
        state, x = stepped
        if state.future.done():
            return
        try:
            image = self.model.decode(x)
        except REQUEST_ERRORS as problem:
            fail(state.future, problem)
        else:
            succeed(state.future, GeneratedImage(image, state.settings))

    def _on_done(self, id_: int, done: Future[GeneratedImage]) -> None:
        """Counts a request that ended and makes room for another; runs on the thread that ended it."""
        if done.cancelled():
            done.set_running_or_notify_cancel()  # wakes those who wait for it
        outcome = "cancelled" if done.cancelled() else "images" if done.exception() is None else "failed"
        self._counts.add(**{outcome: 1})
        with self._changed:
            del self._open[id_]
            self._stepped.discard(id_)
            self._changed.notify_all()

    def _fail_open(self) -> None:
        """Called as a thread of the engine ends: nothing more can be finished, so every open request fails."""
        with self._changed:
            self._broken = self._closing = True
            unfinished = tuple(self._open.values())
            self._changed.notify_all()
        for future in unfinished:
            fail(future, BusyError(CLOSING) if self._abandon else UnreachableError(STOPPED))
