"""The steps of a running attack as points and images, published for readers in other threads."""

import threading
import time
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.outcome import RankingMeter
from hardrank.audit_app.live.status import AttackBudget, TraceFrame, TracePoint
from hardrank.audit_app.live.victim import PreparedVictim
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.runner import AttackEngine, AttackProgress, Method
from hardrank.trainer.attacks.starts import random_starts

_KEYFRAMES: Final = 64
"""About as many images of an attack are kept, for playback."""


class AttackTrace:
    """The published steps of the attack on one model. One thread writes, others read."""

    def __init__(self, budget: AttackBudget) -> None:
        self._budget = budget
        self._every = max(1, -(-budget.most // _KEYFRAMES))
        self.points: tuple[TracePoint, ...] = ()
        self.latest: TraceFrame | None = None
        self.kept: tuple[TraceFrame, ...] = ()

    def add(self, frame: TraceFrame) -> None:
        """Publish a frame. Tuples are replaced as a whole, so readers need no lock."""
        self.points = (*self.points, frame.point)
        self.latest = frame
        interval = self._budget.spent(frame.point) // self._every
        if not self.kept or interval > self._budget.spent(self.kept[-1].point) // self._every:
            self.kept = (*self.kept, frame)


class FrameRecorder:
    """Turns the steps of an engine into frames of a trace, at most `pace` of them a second."""

    def __init__(
        self,
        meter: RankingMeter,
        prepared: PreparedVictim,
        trace: AttackTrace,
        options: LiveOptions,
        stop: threading.Event,
        method: Method | None,
    ) -> None:
        self._meter = meter
        self._benign = to_unit(prepared.pixels)
        self._ids = prepared.victims.ids
        self._trace = trace
        self._options = options
        self._stop = stop
        # PGD reports the loss and embedding of the image before the step; APGD and searches, of the best image.
        self._lags = options.engine.engine is AttackEngine.PGD and not isinstance(method, Search)
        self._on_surrogate = isinstance(method, Transfer)
        self._before = self._benign
        self._next = time.perf_counter()
        self._steps = 0

    def record(self, progress: AttackProgress) -> None:
        """Publish a step, and wait if the pace requires it."""
        after = progress.images[0].detach().float().cpu().numpy().copy()
        if not self._lags:
            shown = after
        elif progress.step == 1:
            shown = self._start(progress.restart)
        else:
            shown = self._before
        self._before = after
        # The embeddings of a transfer attack are the surrogate's. Others may be in bf16, in which the rank of the
        # benign image can differ from that of the result.
        if self._on_surrogate or shown is self._benign:
            embedding = self._meter.served.embed_floats(shown)
        else:
            embedding = progress.embeddings[0].detach().float().cpu().numpy()
        self._trace.add(
            TraceFrame(
                point=TracePoint(
                    step=self._steps,
                    queries=0 if progress.queries is None else int(progress.queries[0]),
                    loss=float(progress.losses[0]),
                    ranks=self._meter.ranks(embedding),
                    kept=self._meter.kept(embedding),
                ),
                image=np.rint(shown * 255).astype(np.uint8),
                change=shown - self._benign,
            )
        )
        self._steps += 1
        if self._options.pace is not None:
            self._next = max(self._next + 1 / self._options.pace, time.perf_counter())
            self._stop.wait(self._next - time.perf_counter())

    def _start(self, restart: int) -> npt.NDArray[np.float32]:
        """The image (3,S,S) that a restart begins with."""
        engine = self._options.engine
        if restart == 0 and not engine.random_start:
            return self._benign
        images = torch.from_numpy(self._benign)[None].to(self._ids.device)
        start = random_starts(images, engine, self._ids, seed=self._options.seed, restart=restart)[0].cpu().numpy()
        return np.asarray(start, dtype=np.float32)
