"""The steps of an engine made points and pictures, and kept for whoever looks."""

import threading
import time
from typing import Final

import numpy as np

from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.outcome import RankingMeter
from hardrank.audit_app.live.status import AttackBudget, TraceFrame, TracePoint
from hardrank.audit_app.live.victim import PreparedVictim
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.runner import AttackProgress, Engine, Method

_KEYFRAMES: Final = 64
"""About as many images of an attack are kept, to look back at."""


class AttackTrace:
    """What was published of one model; one thread writes, others read."""

    def __init__(self, budget: AttackBudget) -> None:
        self._budget = budget
        self._every = max(1, -(-budget.most // _KEYFRAMES))
        self.points: tuple[TracePoint, ...] = ()
        self.latest: TraceFrame | None = None
        self.kept: tuple[TraceFrame, ...] = ()

    def add(self, frame: TraceFrame) -> None:
        """Publish a frame; tuples are replaced as a whole, so that readers need no lock."""
        self.points = (*self.points, frame.point)
        self.latest = frame
        place = self._budget.spent(frame.point) // self._every
        if not self.kept or place > self._budget.spent(self.kept[-1].point) // self._every:
            self.kept = (*self.kept, frame)


class FrameRecorder:
    """Turns the steps of an engine into frames, and keeps the pace."""

    def __init__(
        self,
        bench: RankingMeter,
        prepared: PreparedVictim,
        trace: AttackTrace,
        options: LiveOptions,
        stop: threading.Event,
        method: Method | None,
    ) -> None:
        self._bench = bench
        self._benign = to_unit(prepared.pixels)
        self._trace = trace
        self._options = options
        self._stop = stop
        # PGD tells the loss and embedding of an image with the next one; APGD and searches those of the best with it.
        self._lags = options.engine.engine is Engine.PGD and not isinstance(method, Search)
        self._elsewhere = isinstance(method, Transfer)
        self._before = self._benign if not options.engine.random_start else None
        self._next = time.perf_counter()
        self._steps = 0

    def see(self, progress: AttackProgress) -> None:
        """Publish a step; waits where a pace was asked for."""
        now = progress.images[0].detach().float().cpu().numpy().copy()
        shown = self._before if self._lags and self._before is not None else now
        self._before = now
        # The embeddings of a transfer attack are those of its surrogate.
        if self._elsewhere:
            point = self._bench.served.embed_floats(shown)
        else:
            point = progress.embeddings[0].detach().float().cpu().numpy()
        self._trace.add(
            TraceFrame(
                point=TracePoint(
                    step=self._steps,
                    queries=0 if progress.queries is None else int(progress.queries[0]),
                    loss=float(progress.losses[0]),
                    ranks=self._bench.ranks(point),
                    overlap=self._bench.overlap(point),
                ),
                image=np.rint(shown * 255).astype(np.uint8),
                change=shown - self._benign,
            )
        )
        self._steps += 1
        if self._options.pace is not None:
            self._next = max(self._next + 1 / self._options.pace, time.perf_counter())
            self._stop.wait(self._next - time.perf_counter())
