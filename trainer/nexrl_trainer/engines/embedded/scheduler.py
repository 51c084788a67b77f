"""Continuous batching: one thread that admits requests, computes steps and draws tokens.

Other threads hand it commands, which run between two steps: so no request ever sees half an update. New weights make
every cached key and value invalid; running requests compute theirs anew, so that no token is drawn from a mixture.
"""

import contextlib
import math
import queue
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from nexrl_trainer.engines.embedded.batch import Piece, in_order, lay_out
from nexrl_trainer.engines.embedded.generation import Generation
from nexrl_trainer.engines.embedded.model import SlotModel
from nexrl_trainer.engines.embedded.placement import Placement, Slot, place
from nexrl_trainer.engines.embedded.sampling import bar, sample
from nexrl_trainer.engines.embedded.stopping import Detokenise, abort_reason, finish_reason

Command = Callable[[], None]
STEP_TOKENS = 1024
"""New tokens per step: a long prompt is computed in chunks, between which the others go on."""


class Scheduler:
    """Owns the model from `start` to `stop`. Public methods may be called from any thread."""

    def __init__(
        self,
        model: SlotModel,
        *,
        weight_version: int,
        detokenise: Detokenise | None = None,
        seed: int | None = None,
        step_tokens: int = STEP_TOKENS,
    ) -> None:
        self.weight_version = weight_version
        self._model = model
        self._detokenise = detokenise
        self._random = random.Random(seed)  # noqa: S311 - sampling, not secrets
        self._step_tokens = step_tokens
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: deque[Generation] = deque()
        self._running: dict[int, Generation] = {}  # by slot, in order of admission
        self._slots = [Slot(index=i, ids=(), cached=0, busy=False, used=0) for i in range(model.cache.slots)]
        self._admissions = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Abort what runs and end the thread."""
        self._inbox.put(self._stop)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, generation: Generation) -> None:
        self._inbox.put(lambda: self._waiting.append(generation))

    def abort(self, generation: Generation, message: str) -> None:
        """End a request with what it has; does nothing where it is done."""
        self._inbox.put(lambda: self._abort(generation, message))

    def adopt(self, tensors: list[Tensor], weight_version: int) -> Future[None]:
        """Replace the weights between two steps; `tensors` come from `SlotModel.check`."""
        adopted: Future[None] = Future()

        def command() -> None:
            if not adopted.set_running_or_notify_cancel():
                return
            try:
                self._adopt(tensors, weight_version)
            except Exception as error:  # noqa: BLE001 - belongs to whoever asked
                adopted.set_exception(error)
            else:
                adopted.set_result(None)

        self._inbox.put(command)
        return adopted

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._stopping:
            try:
                self._obey(wait=not (self._running or self._waiting))
                self._step()
            except Exception as error:  # noqa: BLE001 - the requests fail, the engine goes on
                traceback.print_exc(file=sys.stderr)
                self._fail(list(self._running.values()), f"the step failed: {type(error).__name__}: {error}")

    def _obey(self, *, wait: bool) -> None:
        """Run all commands that have arrived; with `wait`, at least one."""
        if wait:
            self._inbox.get()()
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()

    def _step(self) -> None:
        self._admit()
        scheduled = self._schedule()
        if not scheduled:
            return
        pieces = [piece for _, piece in scheduled]
        logits = self._model.forward(lay_out(pieces, self._model.device))
        for generation, piece in scheduled:
            generation.cached += len(piece.ids)
        self._draw([generation for generation, piece in scheduled if piece.samples], logits)

    def _admit(self) -> None:
        """Give waiting requests slots, first come first served; one that waits for a neighbour lets others pass."""
        passed: deque[Generation] = deque()
        try:
            while self._waiting and len(self._running) < len(self._slots):
                generation = self._waiting.popleft()
                placement = place(generation.ids, [self._now(slot) for slot in self._slots])
                if placement is None:
                    passed.append(generation)
                else:
                    self._seat(generation, placement)
        finally:
            self._waiting = passed + self._waiting

    def _seat(self, generation: Generation, placement: Placement) -> None:
        self._admissions += 1
        index = placement.slot
        self._slots[index] = Slot(index=index, ids=(), cached=0, busy=True, used=self._admissions)
        generation.slot = index
        generation.cached = generation.reused = placement.reused
        self._running[index] = generation
        if placement.reused and placement.source != index:
            self._model.cache.copy(placement.source, index, placement.reused)

    def _now(self, slot: Slot) -> Slot:
        """Return what a slot holds at this moment: a busy one's content is its request's."""
        generation = self._running.get(slot.index)
        if generation is None:
            return slot
        return Slot(index=slot.index, ids=generation.ids, cached=generation.cached, busy=True, used=slot.used)

    def _schedule(self) -> list[tuple[Generation, Piece]]:
        """Choose what this step computes: every request's next token, and of longer rests what the budget allows."""
        left = self._step_tokens
        pieces: list[tuple[Generation, Piece]] = []
        for index, generation in self._running.items():
            start, end = generation.cached, len(generation.ids)
            count = end - start if end - start == 1 else min(end - start, left)
            if count <= 0:
                continue
            left -= count
            ids = generation.ids[start : start + count]
            pieces.append((generation, Piece(slot=index, start=start, ids=ids, samples=start + count == end)))
        return [pieces[i] for i in in_order([piece for _, piece in pieces])]

    def _draw(self, generations: list[Generation], logits: Tensor) -> None:
        """Append one token to each request (logits [requests, vocabulary]), and finish those that end."""
        if not generations:
            return
        uniforms = [generation.uniform(self._random) for generation in generations]
        barred = [generation.rule.barred(len(generation.versions)) for generation in generations]
        ids, logprobs = sample(bar(logits, barred), [generation.params for generation in generations], uniforms)
        for generation, token, logprob in zip(generations, ids.tolist(), logprobs.tolist(), strict=True):
            if not math.isfinite(logprob):
                self._fail([generation], f"the logits of weight version {self.weight_version} are not finite")
                continue
            generation.append(token, logprob, self.weight_version)
            generation.finish = finish_reason(generation.rule, generation.output, self._detokenise)
            if generation.finish:
                self._release(generation)
            if generation.finish or generation.stream:
                generation.notify()

    def _release(self, generation: Generation) -> None:
        """Free a request's slot, which keeps its rows for whoever extends them."""
        index = generation.slot
        if index is None:
            return
        ids = generation.ids[: generation.cached]
        used = self._slots[index].used
        self._slots[index] = Slot(index=index, ids=ids, cached=generation.cached, busy=False, used=used)
        del self._running[index]

    def _fail(self, generations: list[Generation], message: str) -> None:
        for generation in generations:
            generation.error = message
            generation.cached = 0
            self._release(generation)
            generation.notify()
        for generation in generations:  # last: where a device is broken this fails too, and they have their answer
            if generation.slot is not None:
                self._model.cache.clear(generation.slot)

    def _abort(self, generation: Generation, message: str) -> None:
        if generation.done:
            return
        generation.finish = abort_reason(message)
        if generation.slot is None:
            self._waiting.remove(generation)
        self._release(generation)
        generation.notify()

    def _adopt(self, tensors: list[Tensor], weight_version: int) -> None:
        self._slots = [Slot(index=s.index, ids=(), cached=0, busy=s.busy, used=s.used) for s in self._slots]
        for generation in self._running.values():
            generation.cached = 0
        self._model.adopt(tensors)
        self.weight_version = weight_version

    def _stop(self) -> None:
        self._stopping = True
        for generation in [*self._running.values(), *self._waiting]:
            self._abort(generation, "the engine is stopping")
