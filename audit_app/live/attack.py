"""A live attack: worker threads that publish each step."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from hardrank.audit_app.blackbox.transfer import Transfer
from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.gallery.served import ServedGallery
from hardrank.audit_app.live.options import LiveOptions
from hardrank.audit_app.live.queue import AttackQueue
from hardrank.audit_app.live.result import LiveResult, SubjectResult, transfer_outcomes
from hardrank.audit_app.live.status import AttackPhase, AttackStatus, TraceFrame
from hardrank.audit_app.live.trace import AttackTrace
from hardrank.audit_app.live.victim import Victim
from hardrank.audit_app.live.worker import ModelAttack, UnjudgedResult, budget_of, method_of
from hardrank.audit_app.subjects.subject import check_names_differ
from hardrank.models.errors import HardrankError

_logger = logging.getLogger(__name__)


class LiveAttack:
    """An attack on one image against several models; call `start`, then poll `status`.

    Each model has its own thread. Attacks share only models and galleries, which never change.

    Args:
        galleries: The models and galleries, at least one.
        victim: The attacked image.
        options: Options of the attack.
        transfers: By model, the transfer attacks to use if `options` request transfer.
        queue: Limits how many attacks run at once; None for no other attacks.

    Raises:
        AuditError: No model, or a missing transfer attack.
        SubjectError: A model lacks the gradients that the method needs.
    """

    def __init__(
        self,
        galleries: Sequence[ServedGallery],
        victim: Victim,
        options: LiveOptions,
        *,
        transfers: Mapping[str, Transfer] | None = None,
        queue: AttackQueue | None = None,
    ) -> None:
        if not galleries:
            raise AuditError("choose at least one model to attack")
        check_names_differ([served.subject for served in galleries])
        self.served = tuple(galleries)
        self.victim = victim
        self.options = options
        self.attack = options.build()
        self.methods = {served.name: method_of(served, options, transfers or {}) for served in galleries}
        self._budgets = {name: budget_of(method, options) for name, method in self.methods.items()}
        self._queue = queue or AttackQueue(1)
        self._stop, self._gone = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._phase, self._message = AttackPhase.WAITING, ""
        self._traces = {name: AttackTrace(budget) for name, budget in self._budgets.items()}
        self._workers = [
            ModelAttack(
                served=served,
                victim=victim,
                attack=self.attack,
                options=options,
                method=self.methods[served.name],
                trace=self._traces[served.name],
                stop=self._stop,
            )
            for served in galleries
        ]
        self._began: float | None = None
        self._ended: float | None = None
        self._result: LiveResult | None = None
        self._thread = threading.Thread(target=self._run, name="live attack", daemon=True)

    def start(self) -> None:
        """Begin as soon as the queue has a place."""
        self._thread.start()

    def stop(self) -> None:
        """End the steps now; the images found so far are judged and become the result."""
        self._stop.set()

    def abandon(self) -> None:
        """End without a result; memory is freed after the current step."""
        self._gone.set()
        self._stop.set()

    def wait(self, timeout: float | None = None) -> AttackStatus:
        """Wait until it ends, at most `timeout` seconds."""
        self._thread.join(timeout)
        return self.status()

    def status(self) -> AttackStatus:
        """Return the current status."""
        with self._lock:
            end = self._ended or time.perf_counter()
            return AttackStatus(
                phase=self._phase,
                ahead=self._queue.ahead(self) if self._phase is AttackPhase.WAITING else 0,
                names=tuple(self._traces),
                budgets=self._budgets,
                curves={name: trace.points for name, trace in self._traces.items()},
                frames={name: trace.latest for name, trace in self._traces.items() if trace.latest},
                message=self._message,
                stopped=self._stop.is_set(),
                seconds=0.0 if self._began is None else end - self._began,
                result=self._result,
            )

    def keyframes(self, name: str) -> tuple[TraceFrame, ...]:
        """Return frames of the attack on a model, evenly spaced over its steps."""
        return self._traces[name].kept

    # ------------------------------------------------------------------ the threads

    def _run(self) -> None:
        try:
            with self._queue.place(self, self._stop.is_set) as entered:
                if not entered:
                    self._enter(AttackPhase.ABANDONED if self._gone.is_set() else AttackPhase.STOPPED)
                    return
                self._enter(AttackPhase.RUNNING)
                self._began = time.perf_counter()
                reached = self._attack_all()
                self._enter(AttackPhase.JUDGING)
                result = self._judge(reached)
            self._ended = time.perf_counter()
            with self._lock:
                self._result = result
                self._phase = AttackPhase.DONE
        except _AbandonedError:
            self._enter(AttackPhase.ABANDONED)
        except HardrankError as error:
            self._fail(str(error))
        except Exception:
            _logger.exception("Live attack failed")
            self._fail("internal error; see the log of the app")

    def _enter(self, phase: AttackPhase) -> None:
        with self._lock:
            self._phase = phase

    def _fail(self, message: str) -> None:
        with self._lock:
            self._phase, self._message = AttackPhase.ABANDONED if self._gone.is_set() else AttackPhase.FAILED, message

    def _attack_all(self) -> list[UnjudgedResult]:
        """Attack every model, each in a thread of its own."""
        found: dict[int, UnjudgedResult | BaseException] = {}

        def work(place: int, worker: ModelAttack) -> None:
            try:
                found[place] = worker.run()
            except BaseException as error:
                self._stop.set()  # the other models need not continue
                found[place] = error

        threads = [
            threading.Thread(target=work, args=(i, worker), name=f"attack on {worker.served.name}", daemon=True)
            for i, worker in enumerate(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_present()
        for outcome in found.values():
            if isinstance(outcome, BaseException):
                raise outcome
        return [reached for _, reached in sorted(found.items()) if isinstance(reached, UnjudgedResult)]

    def _judge(self, reached: Sequence[UnjudgedResult]) -> LiveResult:
        subjects: dict[str, SubjectResult] = {}
        for worker, one in zip(self._workers, reached, strict=True):
            self._check_present()
            found = worker.judge(one)
            subjects[found.name] = found
        self._check_present()
        crossed = transfer_outcomes(
            [one.meter for one in reached], [one.prepared for one in reached], subjects, k=self.options.k
        )
        return LiveResult(subjects=subjects, transfer=crossed, stopped=any(one.result.cancelled for one in reached))

    def _check_present(self) -> None:
        if self._gone.is_set():
            raise _AbandonedError


class _AbandonedError(Exception):
    """The result is no longer needed."""
