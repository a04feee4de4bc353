"""The queue of live attacks: in order of arrival, and never more than the limit at once."""

import contextlib
import threading
import time

from hardrank.audit_app.live.queue import AttackQueue
from tests.waiting import PATIENCE_S, until


def test_at_most_the_limit_run_at_once_and_all_get_a_place() -> None:
    queue, running, most, lock = AttackQueue(2), [0], [0], threading.Lock()
    two = threading.Barrier(2, timeout=PATIENCE_S)

    def visit(number: int) -> None:
        with queue.place(number, lambda: False) as entered:
            assert entered
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            two.wait()  # both run at once
            time.sleep(0.01)
            with lock:
                running[0] -= 1

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most[0] == 2


def test_places_are_given_in_order_and_cancelled_tickets_are_skipped() -> None:
    queue, order, release = AttackQueue(1), list[str](), threading.Event()
    gave_up = threading.Event()

    def visit(name: str, cancelled: threading.Event) -> None:
        with queue.place(name, cancelled.is_set) as entered:
            order.append(name if entered else f"{name} left")
            if entered:
                release.wait(PATIENCE_S)

    def arrive(name: str, cancelled: threading.Event) -> threading.Thread:
        thread = threading.Thread(target=visit, args=(name, cancelled))
        thread.start()
        return thread

    stay = threading.Event()
    threads = [arrive("a", stay)]
    until(lambda: order == ["a"])
    threads.append(arrive("b", gave_up))
    until(lambda: queue.ahead("b") == 1)
    threads.append(arrive("c", stay))
    until(lambda: queue.ahead("c") == 2)
    assert [queue.ahead(name) for name in ("a", "b", "c")] == [0, 1, 2]
    gave_up.set()
    threads[1].join(PATIENCE_S)
    assert queue.ahead("c") == 1
    release.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["a", "b left", "c"]


def test_an_error_frees_the_place() -> None:
    queue = AttackQueue(1)
    for _ in range(2):
        with contextlib.suppress(ValueError), queue.place(object(), lambda: False) as entered:
            assert entered
            raise ValueError
