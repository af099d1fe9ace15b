"""The step engine: rows join and leave between denoising steps, whatever their adapters, samplers and step counts.

    submit -> bounds -> adapters to host memory (loader threads)
           -> encoder thread: adapters to their slots, prompts encoded -> row ready
           -> stepping thread, every turn: one UNet call, of the oldest rows that may share it
           -> decoder thread: finished rows become pictures, one at a time

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
from lorafleet.errors import BusyError, LorafleetError, RequestError, UnreachableError
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter, HostAdapterCache, HostLoader
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.request_state import RequestState, fail, make_row, succeed
from lorafleet_serve.engine.requests import GeneratedImage, GenerateRequest, settle
from lorafleet_serve.engine.rows import Call, Row, Shape, alone, non_finite, together
from lorafleet_serve.engine.scheduler import RoundRobin, StepBudget
from lorafleet_serve.engine.stepper import Stepper, finite
from lorafleet_serve.stats import Counts
from lorafleet_serve.stats import EngineStats as EngineStats  # what callers of this module name
from lorafleet_serve.worker_thread import Stage, finished

# What one request can raise on a thread of the engine without harming the others: ours, and torch's (out of memory).
ONE_REQUEST = (LorafleetError, RuntimeError, CancelledError)
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
        slot_bytes: int = 4 * 2**30,
        host_bytes: int = 8 * 2**30,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """At most `max_rows` images are denoised at a time, and no more than fit in a step of `max_step_ms`.

        `exact`: an image's bits depend on its request alone, at the price of UNet calls of its own (`rows.alone`).
        `slot_bytes` and `host_bytes` bound adapters on the device and in host memory.
        """
        if exact and max_step_ms is not None:
            raise RequestError("max_step_ms does not fit exact, where a step is one image's call already; leave it out")
        self.model, self.max_rows, self.max_queue = model, max_rows, max_queue
        self._clock, self._counts, device = clock, Counts(), model.loaded.device
        if exact:
            use_deterministic_algorithms(device)
        self.shelf = HostAdapterCache(HostLoader(model.loaded, model.layout), self._counts, host_bytes)
        self.slots = DeviceAdapterCache(device, slot_bytes, self._counts)
        self.stepper = Stepper(model, alone if exact else together)
        self._turns, self._budget, self._numbers = RoundRobin[Call](), StepBudget[Shape](max_step_ms), count()
        self._changed = threading.Condition(threading.RLock())  # guards the seven below
        self._open: dict[int, Future[GeneratedImage]] = {}
        self._stepped: set[int] = set()  # of those, which were denoised at all
        self._ready: deque[tuple[RequestState, Row]] = deque()
        self._closing = self._abandon = self._broken = False
        self._beat = time.monotonic()
        self._running: dict[int, tuple[RequestState, Row]] = {}  # the stepping thread's own
        self._encoder = Stage[RequestState]("encoder", self._encode, self._break, device)
        self._decoder = Stage[tuple[RequestState, Tensor]]("decoder", self._decode, self._break, device)
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest) -> Future[GeneratedImage]:
        """Queues a request. RequestError if it is out of bounds, BusyError if the queue is full or the engine closes.

        Everything later (BundleError, NonFiniteError, torch's own) is in the future. Cancelling the future frees the
        row at the next step.
        """
        settings = settle(request, self.model.base, self.model.samplers)
        future: Future[GeneratedImage] = Future()
        with self._changed:
            self._check_room()
            number = next(self._numbers)
            self._open[number] = future
        future.add_done_callback(lambda done: self._close_one(number, done))
        loads = tuple(self.shelf.fetch(use.adapter.path) for use in request.adapters)
        self._when_loaded(RequestState(number, request, settings, loads, future))
        return future

    def stats(self) -> EngineStats:
        """The counts so far, and how many rows there are now."""
        with self._changed:
            waiting = len(self._open.keys() - self._stepped)
        return replace(
            self._counts.read(),
            rows_running=len(self._running),
            rows_waiting=waiting,
            slot_bytes=self.slots.nbytes,
            prompt_hits=self.model.prompt_hits,
            prompt_misses=self.model.prompt_misses,
        )

    def adapters_held(self) -> set[str]:
        """Folders of the bundles that are in host memory or on the device, links resolved."""
        return {folder for folder, _ in self.shelf.held() | self.slots.held()}

    def check(self, stalled_after: float = 600.0) -> None:
        """UnreachableError if a thread died, or one turn has lasted longer than `stalled_after` seconds."""
        if self._broken or not self._thread.is_alive():
            raise UnreachableError("a thread of the engine has ended; restart the server")
        with self._changed:
            stalled = time.monotonic() - self._beat if self._running else 0.0
        if stalled > stalled_after:
            raise UnreachableError(f"the engine has not finished a step for {stalled:.0f} s; restart the server")

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Ends the engine: finishes what was accepted, or with `drain` false fails it with BusyError."""
        with self._changed:
            self._closing, self._abandon = True, not drain
            self._changed.notify_all()
        self._thread.join(timeout)
        self.shelf.close()
        self._encoder.close()
        self._decoder.close()

    # ---- on the way in: callers' and loaders' threads, then the encoder's

    def _check_room(self) -> None:
        if self._closing:
            raise BusyError(CLOSING)
        if len(self._open) >= self.max_rows + self.max_queue:
            raise BusyError(
                f"{len(self._open)} requests are waiting or running; at most {self.max_rows + self.max_queue} are; "
                "send the request again later"
            )

    def _when_loaded(self, ticket: RequestState) -> None:
        pending = next((load for load in ticket.loads if not load.done()), None)
        if pending is None:
            self._encoder.put(ticket)
        else:
            pending.add_done_callback(lambda _: self._when_loaded(ticket))

    def _encode(self, ticket: RequestState) -> None:
        """Makes a row of a ticket as soon as there is room for one more to stand ready, and for its adapters."""
        try:
            hosts = ticket.hosts
            self.slots.check(hosts)
            with self._changed:
                self._changed.wait_for(lambda: self._unwanted(ticket) or self._may_encode(hosts))
            if self._unwanted(ticket):
                return
            self.slots.lease(hosts)
            try:
                row = make_row(ticket, self.model, self.slots)
                finished(self.model.loaded.device)
            except ONE_REQUEST:
                self._release(ticket)
                raise
        except ONE_REQUEST as problem:
            fail(ticket.future, problem)
            return
        with self._changed:
            self._ready.append((ticket, row))
            self._changed.notify_all()

    def _unwanted(self, ticket: RequestState) -> bool:
        return ticket.future.done() or self._ended()

    def _may_encode(self, hosts: list[HostAdapter]) -> bool:
        return len(self._ready) < self.max_rows and self.slots.admits(hosts)

    # ---- the stepping thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
        finally:
            self._break()

    def _wait(self) -> bool:
        """Waits for something to do and lets rows join; false when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._running or self._ended())
            if self._ended():
                return False
            self._beat = time.monotonic()
            while self._ready and len(self._running) < self.max_rows:
                ticket, row = self._ready.popleft()
                self._running[ticket.id] = ticket, row
                self._stepped.add(ticket.id)
            self._changed.notify_all()
        return True

    def _ended(self) -> bool:
        return self._broken or (self._closing and (self._abandon or not self._open))

    def _turn(self) -> None:
        """Drops cancelled rows, then makes one call of the oldest rows that share it, as many as the budget allows."""
        for number in [n for n, (ticket, _) in self._running.items() if ticket.future.done()]:
            self._leave(number)
        if self._running:
            calls = {number: self.stepper.call(row) for number, (_, row) in self._running.items()}
            call = self._turns.next(list(calls.values()))
            rows = [row for number, (_, row) in self._running.items() if calls[number] == call]
            self._step(rows[: self._budget.choose(rows[0].shape, [row.unet_rows for row in rows])])
        self.stepper.keep({self.stepper.call(row) for _, row in self._running.values()})

    def _step(self, rows: list[Row]) -> None:
        try:
            unet_rows = len(self.stepper.seat(rows).rows)
            started = self._clock()
            stepped = self.stepper.step(rows)
            fine = finite(stepped)
        except torch.AcceleratorError:
            raise  # the device is lost to this process: every thread of the engine ends, and a new one must be started
        except RuntimeError as problem:
            self._recover(rows, problem)
            return
        seconds = self._clock() - started
        self._budget.observe(rows[0].shape, unet_rows, 1000 * seconds)
        self._counts.add(steps=1, unet_rows=unet_rows, step_seconds=seconds)
        for row, sound in zip(stepped, fine, strict=True):
            ticket = self._running[row.id][0]
            self._running[row.id] = ticket, row
            if not sound:
                self._leave(row.id)
                fail(ticket.future, non_finite(row))
            elif row.done:
                self._leave(row.id)
                self._decoder.put((ticket, row.x))  # without its adapters, which may go now

    def _recover(self, rows: list[Row], problem: RuntimeError) -> None:
        """Finds whom a failed step was for: one row alone fails; too many for memory are fewer from now on."""
        self.stepper.keep(())  # half-made batches
        if len(rows) == 1:
            ticket, _ = self._running[rows[0].id]
            self._leave(rows[0].id)
            fail(ticket.future, problem)
        elif isinstance(problem, torch.OutOfMemoryError):
            self._budget.too_many(rows[0].shape, sum(row.unet_rows for row in rows))
        else:
            for row in rows:
                self._step([row])

    def _leave(self, number: int) -> None:
        self._release(self._running.pop(number)[0])

    def _release(self, ticket: RequestState) -> None:
        self.slots.release(ticket.hosts)
        with self._changed:
            self._changed.notify_all()

    # ---- on the way out: the decoder's thread, and whoever ends a future

    def _decode(self, stepped: tuple[RequestState, Tensor]) -> None:
        ticket, x = stepped
        if ticket.future.done():
            return
        try:
            image = self.model.decode(x)
        except ONE_REQUEST as problem:
            fail(ticket.future, problem)
        else:
            succeed(ticket.future, GeneratedImage(image, ticket.request, ticket.settings))

    def _close_one(self, number: int, done: Future[GeneratedImage]) -> None:
        """Counts a request that ended, in whatever thread ended it, and makes room for another."""
        if done.cancelled():
            done.set_running_or_notify_cancel()  # tells those who wait for it
        outcome = "cancelled" if done.cancelled() else "images" if done.exception() is None else "failed"
        self._counts.add(**{outcome: 1})
        with self._changed:
            del self._open[number]
            self._stepped.discard(number)
            self._changed.notify_all()

    def _break(self) -> None:
        """Called as a thread ends: nothing more can be finished, so nobody is left waiting."""
        with self._changed:
            self._broken = self._closing = True
            left = tuple(self._open.values())
            self._changed.notify_all()
        for future in left:
            fail(future, BusyError(CLOSING) if self._abandon else UnreachableError(STOPPED))
