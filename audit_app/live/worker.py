"""A live attack's part on one model: its method, its steps and its result."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hardrank.audit_app.blackbox.choice import SearchMethod, choose_method
from hardrank.audit_app.blackbox.method import Search
from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.outcome import RankingMeter
from hardrank.audit_app.live.result import SubjectResult, judge_result
from hardrank.audit_app.live.status import AttackBudget, TraceFrame, TracePoint
from hardrank.audit_app.live.trace import AttackTrace, FrameRecorder
from hardrank.audit_app.live.victim import PreparedVictim, Victim, prepare_victim
from hardrank.models.preprocessing import to_unit
from hardrank.trainer.attacks.attack import Attack, TriesTargets
from hardrank.trainer.attacks.runner import AttackResult, Method, run_attack


@dataclass(frozen=True, kw_only=True, eq=False)
class UnjudgedResult:
    """The end of the steps on a model, not yet judged by the served model."""

    meter: RankingMeter
    prepared: PreparedVictim
    result: AttackResult
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelAttack:
    """The attack on one model. Its methods run in threads of the live attack."""

    served: ServedGallery
    victim: Victim
    attack: Attack
    options: LiveOptions
    method: Method | None
    """None for white-box."""
    trace: AttackTrace
    """Where it publishes its steps."""
    stop: threading.Event

    def run(self) -> UnjudgedResult:
        """Run the steps until they end or are stopped."""
        torch.set_num_threads(self.options.threads)  # of this thread
        began = time.perf_counter()
        prepared = prepare_victim(self.victim, self.served)
        embedded, victims, targets = self.served.embedded, prepared.victims, self._targets(prepared)
        benign = self.served.embed(prepared.pixels)
        meter = RankingMeter(self.served, self.attack, victims, targets, benign, own=prepared.own, k=self.options.k)
        images = torch.from_numpy(to_unit(prepared.pixels))[None].to(
            embedded.subject.device, memory_format=torch.channels_last
        )
        result = (self.method or run_attack)(
            self.attack,
            embedded.subject.gradients if self.method is None else embedded.subject.judge,
            images,
            victims,
            embedded.tensors,
            self.options.engine,
            seed=self.options.seed,
            targets=targets,
            judge=embedded.subject.judge,
            on_step=FrameRecorder(meter, prepared, self.trace, self.options, self.stop, self.method).record,
            cancel=self.stop.is_set,
        )
        return UnjudgedResult(meter=meter, prepared=prepared, result=result, seconds=time.perf_counter() - began)

    def _targets(self, prepared: PreparedVictim) -> torch.Tensor:
        """Rows of the targets (1,T): the chosen ones, else drawn from the seed."""
        if self.options.targets is None:
            return self.attack.draw(prepared.victims, self.served.embedded.tensors, seed=self.options.seed)
        rows = [self.served.gallery.row(id) for id in self.options.targets]
        return torch.tensor([rows], dtype=torch.long)

    def judge(self, reached: UnjudgedResult) -> SubjectResult:
        """Measure the image with the served model, and publish it as the last frame."""
        found = judge_result(
            reached.meter,
            reached.prepared,
            reached.result,
            self.options.engine,
            self.options.transform,
            seed=self.options.seed,
            seconds=reached.seconds,
        )
        ended = self.trace.points
        point = TracePoint(
            step=ended[-1].step + 1 if ended else 0,
            queries=found.queries or 0,
            loss=float("nan"),
            ranks=found.outcome.ranks_after,
            kept=found.outcome.kept,
        )
        self.trace.add(
            TraceFrame(point=point, image=found.pixels, change=to_unit(found.pixels) - to_unit(found.benign))
        )
        return found


def method_of(served: ServedGallery, options: LiveOptions, transfers: Mapping[str, Transfer]) -> Method | None:
    """Choose how a model is attacked; None: white-box."""
    if options.method is not SearchMethod.TRANSFER:
        return choose_method(served.subject, options.method, norm=options.engine.norm, search=options.search)
    if served.name not in transfers:
        raise AuditError(f"a transfer attack on {served.name} needs a surrogate: choose a model with gradients")
    return transfers[served.name]


def budget_of(method: Method | None, options: LiveOptions) -> AttackBudget:
    """Return the budget of an attack by `method`."""
    if isinstance(method, Search):
        return AttackBudget(most=method.queries, counts_queries=True)
    attack = options.build()
    runs = attack.target_count if isinstance(attack, TriesTargets) else 1
    return AttackBudget(most=options.engine.steps * options.engine.restarts * runs, counts_queries=False)
