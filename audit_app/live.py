"""An attack that is watched while it runs: worker threads that publish what they reach, step by step."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from audit_app.blackbox import make_search
from audit_app.blackbox.method import Search
from audit_app.blackbox.transfer import Transfer
from audit_app.errors import AuditError
from audit_app.exact_png import Pixels
from audit_app.live_result import LiveResult, SubjectResult, conclude, transfers
from audit_app.options import SearchMethod, search_name
from audit_app.outcome import Bench
from audit_app.served import Served
from audit_app.subjects import check_names_differ
from audit_app.treatments import TreatmentOptions
from audit_app.turnstile import Turnstile
from audit_app.victim import Prepared, Victim, prepare_victim
from models.errors import HardrankError
from models.preprocessing import to_unit
from trainer.attacks.attack import Attack
from trainer.attacks.registry import make_attack
from trainer.attacks.run import AttackOptions, AttackResult, Engine, Method, Progress, run_attack

_logger = logging.getLogger(__name__)

_KEYFRAMES: Final = 64
"""About as many images of an attack are kept, to look back at."""


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """What is done to the image. Raises `AuditError` or `AttackError` for what cannot be."""

    attack: str = "QA+"
    """Name of the attack."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Options of the attack, as it declares them."""
    engine: AttackOptions = field(default_factory=AttackOptions)
    """ε, α, steps and the rest, as the engine declares them."""
    targets: tuple[str, ...] | None = None
    """Ids of the gallery's items to aim at; None: drawn from the seed."""
    seed: int = 0
    """Of what is drawn: targets and random starts."""
    k: int = 10
    """How many items the head of a ranking has."""
    treatment: TreatmentOptions = field(default_factory=TreatmentOptions)
    """What the adversarial image is put through afterwards."""
    method: SearchMethod = SearchMethod.AUTO
    """How adversarial images are found."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """Options of the black-box search, as it declares them."""
    threads: int = 1
    """Of PyTorch, for each model; results may differ in the last digits between numbers of threads."""
    pace: float | None = None
    """Most steps a second, for eyes to follow; None: as fast as can be. Results do not depend on it."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.threads < 1 or self.seed < 0:
            raise AuditError(
                f"k = {self.k}, threads = {self.threads}, seed = {self.seed}: give k and threads ≥ 1, seed ≥ 0"
            )
        if self.pace is not None and not self.pace > 0:
            raise AuditError(f"the pace is {self.pace} steps a second; give a number above 0, or none")
        self.build()
        if self.search:
            make_search(self.searched, **self.search)

    def build(self) -> Attack:
        """Make the attack; raises `AttackError` for unknown names and values."""
        return make_attack(self.attack, **self.settings)

    @property
    def searched(self) -> str:
        """Name of the black-box search for models without gradients."""
        return search_name(self.method, self.engine.norm)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where an attack on one model stood."""

    step: int
    """Steps done, from 0; of all restarts."""
    queries: int = 0
    """Questions asked so far, by a search that may only ask."""
    loss: float
    """Of the image at that step; NaN where it was not asked for."""
    ranks: tuple[int, ...]
    """Of the items that the attack is about."""
    overlap: float
    """Share of the benign ranking's head that is still in it, in [0,1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A point with its picture."""

    point: Point
    image: Pixels
    """(3,S,S)."""
    change: npt.NDArray[np.float32]
    """(3,S,S): the perturbation, of pixels in [0,1]."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long the attack on a model may go on."""

    most: int
    """Steps over all restarts, or questions."""
    asks: bool
    """Whether questions to the model are counted, not steps."""

    def spent(self, point: Point) -> int:
        """How much of it was spent at a point."""
        return point.queries if self.asks else point.step


class Phase(StrEnum):
    """Where a live attack stands."""

    WAITING = "waiting"
    """Others run; this one is in the queue."""
    RUNNING = "running"
    JUDGING = "judging"
    """The steps are done; the served models judge the images."""
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"
    """Abandoned."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in {Phase.DONE, Phase.FAILED, Phase.GONE}


@dataclass(frozen=True, kw_only=True, eq=False)
class Status:
    """All that can be seen of a live attack at a moment; never changes."""

    phase: Phase
    ahead: int
    """How many attacks have to end before this one begins."""
    names: tuple[str, ...]
    """Of the models."""
    budgets: Mapping[str, Budget]
    """By model."""
    curves: Mapping[str, tuple[Point, ...]]
    """By model, a point for each step so far."""
    frames: Mapping[str, Frame]
    """By model, the latest."""
    message: str
    """What went wrong, when it failed."""
    stopped: bool
    """Whether it was told to end early."""
    seconds: float
    """Since it began to run."""
    result: LiveResult | None


def _method(served: Served, options: LiveOptions, transfers: Mapping[str, Transfer]) -> Method | None:
    """Choose how a model is attacked; None: by its gradients."""
    subject = served.scene.subject
    if options.method is SearchMethod.TRANSFER:
        if served.name not in transfers:
            raise AuditError(f"a transfer attack on {served.name} needs a surrogate: choose a model with gradients")
        return transfers[served.name]
    if options.method is SearchMethod.WHITE_BOX or (options.method is SearchMethod.AUTO and subject.white_box):
        _ = subject.gradients  # raises, and names the model, where there are none
        return None
    return make_search(options.searched, **options.search)


def _budget(method: Method | None, options: LiveOptions) -> Budget:
    if isinstance(method, Search):
        return Budget(most=method.queries, asks=True)
    return Budget(most=options.engine.steps * options.engine.restarts, asks=False)


class LiveAttack:
    """An attack on one image, against several models at once; `start` it and look at its `status`.

    Each model has a thread of its own. Nothing here is shared between attacks but the models and galleries, which
    never change.
    """

    def __init__(
        self,
        scenes: Sequence[Served],
        victim: Victim,
        options: LiveOptions,
        *,
        transfers: Mapping[str, Transfer] | None = None,
        turnstile: Turnstile | None = None,
    ) -> None:
        """Prepare; `transfers`, by model, are the methods where `options` ask for transfer.

        Raises `AuditError` for no model, `SubjectError` for one that does not give what the method needs.
        """
        if not scenes:
            raise AuditError("choose at least one model to attack")
        check_names_differ([served.scene.subject for served in scenes])
        self.scenes = tuple(scenes)
        self.victim = victim
        self.options = options
        self.attack = options.build()
        self.methods = {served.name: _method(served, options, transfers or {}) for served in scenes}
        self._budgets = {name: _budget(method, options) for name, method in self.methods.items()}
        self._turnstile = turnstile or Turnstile(1)
        self._stop, self._gone = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._phase, self._message = Phase.WAITING, ""
        self._traces = {name: _Trace(budget) for name, budget in self._budgets.items()}
        self._began: float | None = None
        self._ended: float | None = None
        self._result: LiveResult | None = None
        self._thread = threading.Thread(target=self._run, name="live attack", daemon=True)

    def start(self) -> None:
        """Begin as soon as the turnstile lets it."""
        self._thread.start()

    def stop(self) -> None:
        """End the steps now; what was reached is judged and becomes the result."""
        self._stop.set()

    def abandon(self) -> None:
        """End now, without a result; the memory is free once the step under way is done."""
        self._gone.set()
        self._stop.set()

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until it is over, at most `timeout` seconds."""
        self._thread.join(timeout)
        return self.status()

    def status(self) -> Status:
        """See where it stands."""
        with self._lock:
            end = self._ended or time.perf_counter()
            return Status(
                phase=self._phase,
                ahead=self._turnstile.ahead(self) if self._phase is Phase.WAITING else 0,
                names=tuple(self._traces),
                budgets=self._budgets,
                curves={name: trace.points for name, trace in self._traces.items()},
                frames={name: trace.latest for name, trace in self._traces.items() if trace.latest},
                message=self._message,
                stopped=self._stop.is_set(),
                seconds=0.0 if self._began is None else end - self._began,
                result=self._result,
            )

    def keyframes(self, name: str) -> tuple[Frame, ...]:
        """Give pictures of the attack on a model, evenly over its steps."""
        return self._traces[name].kept

    # ------------------------------------------------------------------ the worker

    def _run(self) -> None:
        try:
            with self._turnstile.passing(self, self._stop.is_set) as entered:
                if not entered:
                    raise AuditError("the attack was stopped before it began")
                self._enter(Phase.RUNNING)
                self._began = time.perf_counter()
                reached = self._attack_all()
                self._enter(Phase.JUDGING)
                result = self._judge(reached)
            self._ended = time.perf_counter()
            with self._lock:
                self._result = result
                self._phase = Phase.DONE
        except _AbandonedError:
            self._enter(Phase.GONE)
        except HardrankError as error:
            self._fail(str(error))
        except Exception:
            _logger.exception("a live attack failed")
            self._fail("the attack failed for a reason that is not yours to mend; the log of the app has the details")

    def _enter(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase

    def _fail(self, message: str) -> None:
        with self._lock:
            self._phase, self._message = Phase.GONE if self._gone.is_set() else Phase.FAILED, message

    def _attack_all(self) -> list["_Reached"]:
        """Attack every model, each in a thread of its own."""
        found: dict[int, _Reached | BaseException] = {}

        def work(place: int, served: Served) -> None:
            try:
                found[place] = self._attack_one(served)
            except BaseException as error:
                self._stop.set()  # the others need not go on
                found[place] = error

        threads = [
            threading.Thread(target=work, args=(i, served), name=f"attack on {served.name}", daemon=True)
            for i, served in enumerate(self.scenes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_present()
        for outcome in found.values():
            if isinstance(outcome, BaseException):
                raise outcome
        return [reached for _, reached in sorted(found.items()) if isinstance(reached, _Reached)]

    def _attack_one(self, served: Served) -> "_Reached":
        torch.set_num_threads(self.options.threads)  # counts for this thread
        began = time.perf_counter()
        prepared = prepare_victim(self.victim, served)
        scene, victims = served.scene, prepared.victims
        targets = self._targets(served)
        if targets is None:
            targets = self.attack.draw(victims, scene.gallery, seed=self.options.seed)
        benign = served.embed(prepared.pixels)
        bench = Bench(served, self.attack, victims, targets, benign, own=prepared.own, k=self.options.k)
        images = torch.from_numpy(to_unit(prepared.pixels))[None].to(
            scene.subject.device, memory_format=torch.channels_last
        )
        method = self.methods[served.name]
        watch = _Watch(bench, prepared, self._traces[served.name], self.options, self._stop, method)
        result = (method or run_attack)(
            self.attack,
            scene.subject.gradients if method is None else scene.subject.judge,
            images,
            victims,
            scene.gallery,
            self.options.engine,
            seed=self.options.seed,
            targets=targets,
            judge=scene.subject.judge,
            on_step=watch.see,
            cancel=self._stop.is_set,
        )
        return _Reached(bench, prepared, result, time.perf_counter() - began)

    def _targets(self, served: Served) -> torch.Tensor | None:
        """Rows of the targets that were chosen (1,T)."""
        if self.options.targets is None:
            return None
        rows = [served.scene.collection.row(id) for id in self.options.targets]
        return torch.tensor([rows], dtype=torch.long)

    def _judge(self, reached: Sequence["_Reached"]) -> LiveResult:
        subjects: dict[str, SubjectResult] = {}
        for one in reached:
            self._check_present()
            found = conclude(
                one.bench,
                one.prepared,
                one.result,
                self.options.engine,
                self.options.treatment,
                seed=self.options.seed,
                seconds=one.seconds,
            )
            subjects[found.name] = found
            ended = self._traces[found.name].points
            self._traces[found.name].add(
                Frame(
                    point=Point(
                        step=ended[-1].step + 1 if ended else 0,
                        queries=found.queries or 0,
                        loss=float("nan"),
                        ranks=found.outcome.ranks_after,
                        overlap=found.outcome.overlap,
                    ),
                    image=found.pixels,
                    change=to_unit(found.pixels) - to_unit(found.benign),
                )
            )
        self._check_present()
        crossed = transfers(
            [one.bench for one in reached], [one.prepared for one in reached], subjects, k=self.options.k
        )
        return LiveResult(subjects=subjects, transfer=crossed, stopped=any(one.result.cancelled for one in reached))

    def _check_present(self) -> None:
        if self._gone.is_set():
            raise _AbandonedError


@dataclass(frozen=True, eq=False)
class _Reached:
    bench: Bench
    prepared: Prepared
    result: AttackResult
    seconds: float


class _AbandonedError(Exception):
    """Nobody waits for the result."""


class _Trace:
    """What was published of one model; one thread writes, others read."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._every = max(1, -(-budget.most // _KEYFRAMES))
        self.points: tuple[Point, ...] = ()
        self.latest: Frame | None = None
        self.kept: tuple[Frame, ...] = ()

    def add(self, frame: Frame) -> None:
        """Publish a frame; tuples are replaced as a whole, so that readers need no lock."""
        self.points = (*self.points, frame.point)
        self.latest = frame
        place = self._budget.spent(frame.point) // self._every
        if not self.kept or place > self._budget.spent(self.kept[-1].point) // self._every:
            self.kept = (*self.kept, frame)


class _Watch:
    """Turns the steps of an engine into frames, and keeps the pace."""

    def __init__(
        self,
        bench: Bench,
        prepared: Prepared,
        trace: _Trace,
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

    def see(self, progress: Progress) -> None:
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
            Frame(
                point=Point(
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
