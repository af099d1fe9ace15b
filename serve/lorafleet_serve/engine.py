"""The step engine: one thread that owns the device, and rows that join and leave between denoising steps.

    submit -> bounds -> adapters to host memory (loader threads) -> prompts encoded -> row joins
    every turn: one size, all its rows, one UNet call -> finished rows are decoded, one at a time

Knows neither Ray nor HTTP. A request that fails, is cancelled or turns non-finite leaves the others untouched.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import count

import torch

from lorafleet.adapters import Adapter
from lorafleet.errors import BusyError, LorafleetError, NonFiniteError, UnreachableError
from lorafleet.numerics.samplers import sampler_table
from lorafleet.numerics.text import split_prompt
from lorafleet_serve.host_adapters import AdapterShelf
from lorafleet_serve.pipeline import Pipeline
from lorafleet_serve.prompts import trigger_table
from lorafleet_serve.requests import GeneratedImage, GenerateRequest, Settings, settle
from lorafleet_serve.rows import Row, Stepper, Turns, finite

# What one request can raise on the engine's thread without harming the others: ours, and torch's (out of memory).
ONE_REQUEST = (LorafleetError, RuntimeError, CancelledError)
STOPPED = "the engine stopped before this image was finished; send the request again"
CLOSING = "the server is shutting down; send the request again later"


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request on its way to being a row."""

    id: int
    request: GenerateRequest
    settings: Settings
    loads: tuple[Future[Adapter], ...]
    future: Future[GeneratedImage]


class StepEngine:
    """Makes images from requests of any mix. `submit` from any thread; `close` once."""

    def __init__(self, model: Pipeline, max_rows: int = 8, max_queue: int = 64) -> None:
        self.model, self.max_rows, self.max_queue = model, max_rows, max_queue
        self.shelf = AdapterShelf(model.loaded)
        self.stepper = Stepper(model)
        self._turns = Turns()
        self._numbers = count()
        self._changed = threading.Condition(threading.RLock())  # guards the five below
        self._open: dict[int, Future[GeneratedImage]] = {}
        self._ready: deque[Ticket] = deque()
        self._closing = self._abandon = False
        self._beat = time.monotonic()
        self._running: dict[int, tuple[Ticket, Row]] = {}  # the thread's own
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
        future.add_done_callback(lambda _: self._forget(number))
        loads = tuple(self.shelf.fetch(use.adapter.path) for use in request.adapters)
        self._when_loaded(Ticket(number, request, settings, loads, future))
        return future

    def check(self, stalled_after: float = 600.0) -> None:
        """UnreachableError if the thread died, or one turn has lasted longer than `stalled_after` seconds."""
        if not self._thread.is_alive():
            raise UnreachableError("the engine's thread has ended; restart the server")
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

    def _check_room(self) -> None:
        if self._closing:
            raise BusyError(CLOSING)
        if len(self._open) >= self.max_rows + self.max_queue:
            raise BusyError(
                f"{len(self._open)} requests are waiting or running; at most {self.max_rows + self.max_queue} are; "
                "send the request again later"
            )

    def _forget(self, number: int) -> None:
        with self._changed:
            self._open.pop(number, None)
            self._changed.notify_all()

    def _when_loaded(self, ticket: Ticket) -> None:
        pending = next((load for load in ticket.loads if not load.done()), None)
        if pending is not None:
            pending.add_done_callback(lambda _: self._when_loaded(ticket))
            return
        with self._changed:
            self._ready.append(ticket)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (joining := self._wait()) is not None:
                for ticket in joining:
                    self._join(ticket)
                self._turn()
        finally:
            with self._changed:
                self._closing = True
                left = tuple(self._open.values())
            for future in left:
                _fail(future, BusyError(CLOSING) if self._abandon else UnreachableError(STOPPED))

    def _wait(self) -> list[Ticket] | None:
        """The tickets that may join now, after waiting for something to do; None when it is time to end."""
        with self._changed:
            while not (self._ready or self._running or self._ended()):
                self._changed.wait()
            if self._ended():
                return None
            self._beat = time.monotonic()
            room = self.max_rows - len(self._running)
            return [self._ready.popleft() for _ in range(min(room, len(self._ready)))]

    def _ended(self) -> bool:
        return self._closing and (self._abandon or not self._open)

    def _join(self, ticket: Ticket) -> None:
        if _cancelled(ticket.future):
            return
        try:
            self._running[ticket.id] = (ticket, self._prepare(ticket))
        except ONE_REQUEST as problem:
            _fail(ticket.future, problem)

    def _prepare(self, ticket: Ticket) -> Row:
        hosts = [load.result() for load in ticket.loads]
        request, settings = ticket.request, ticket.settings
        table = sampler_table(self.model.base, settings.scheduler, settings.steps)
        worn = [(host, use.scale) for host, use in zip(hosts, request.adapters, strict=True)]
        triggers = trigger_table(hosts)
        positive = self.model.condition(split_prompt(request.prompt, triggers), worn)
        if request.negative_prompt is None:
            negative = self.model.no_negative(positive, worn)
        else:
            negative = self.model.condition(split_prompt(request.negative_prompt, triggers), worn)
        x = self.model.first_noise(settings.width, settings.height, settings.seed) * table.init_noise_sigma
        size = (settings.height, settings.width)
        return Row(
            id=ticket.id,
            table=table,
            guidance=settings.guidance_scale,
            adapters=tuple((self.model.place(host), scale) for host, scale in worn),
            positive=positive,
            negative=negative,
            time_ids=torch.tensor([[*size, 0, 0, *size]], **self.model.placement),
            x=x,
            x0_prev=torch.zeros_like(x),
        )

    def _turn(self) -> None:
        """Drops cancelled rows, steps the rows of one size, and delivers those that are finished."""
        self._running = {
            n: (ticket, row) for n, (ticket, row) in self._running.items() if not _cancelled(ticket.future)
        }
        sizes = [row.size for _, row in self._running.values()]
        self.stepper.keep(set(sizes))
        if not sizes:
            return
        size = self._turns.next(sizes)
        self._step([row for _, row in self._running.values() if row.size == size])

    def _step(self, rows: list[Row]) -> None:
        try:
            stepped = self.stepper.step(rows)
        except RuntimeError as problem:
            if len(rows) == 1:
                _fail(self._running.pop(rows[0].id)[0].future, problem)
                return
            for row in rows:  # one of them asks for too much: let it fail alone
                self._step([row])
            return
        for row, fine in zip(stepped, finite(stepped), strict=True):
            ticket = self._running[row.id][0]
            self._running[row.id] = (ticket, row)
            if row.done or not fine:
                del self._running[row.id]
                self._deliver(ticket, row, fine)

    def _deliver(self, ticket: Ticket, row: Row, fine: bool) -> None:
        try:
            if not fine:
                raise NonFiniteError(
                    f"the image became non-finite at step {row.step} of {len(row.table)}; lower the adapter scales or "
                    "the guidance scale"
                )
            image = self.model.decode(row.x)
        except ONE_REQUEST as problem:
            _fail(ticket.future, problem)
            return
        if ticket.future.set_running_or_notify_cancel():
            ticket.future.set_result(GeneratedImage(image, ticket.request, ticket.settings))


def _fail(future: Future[GeneratedImage], problem: BaseException) -> None:
    """Gives a future its error unless its caller gave up. Only the engine's thread resolves futures."""
    if future.set_running_or_notify_cancel():
        future.set_exception(problem)


def _cancelled(future: Future[GeneratedImage]) -> bool:
    """Whether the caller gave up; tells those who wait for the future that it was seen."""
    return future.cancelled() and not future.set_running_or_notify_cancel()
