"""Who waits goes in in the order of arrival, and never more than the limit at once."""

import threading
import time

from audit_app.turnstile import Turnstile


def test_no_more_than_the_limit_are_inside_and_all_get_through() -> None:
    turnstile, inside, most, lock = Turnstile(2), [0], [0], threading.Lock()

    def visit(number: int) -> None:
        with turnstile.passing(number, lambda: False) as entered:
            assert entered
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (most[0], turnstile.inside) == (2, 0)


def test_first_come_first_served_and_who_gives_up_is_skipped() -> None:
    turnstile, order, release = Turnstile(1), list[str](), threading.Event()
    gave_up = threading.Event()

    def visit(name: str, cancelled: threading.Event) -> None:
        with turnstile.passing(name, cancelled.is_set) as entered:
            order.append(name if entered else f"{name} left")
            if entered:
                release.wait(10)

    stay = threading.Event()
    threads = []
    for name, cancelled in (("a", stay), ("b", gave_up), ("c", stay)):
        threads.append(threading.Thread(target=visit, args=(name, cancelled)))
        threads[-1].start()
        deadline = time.monotonic() + 5
        while not (order or turnstile.inside) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
    assert [turnstile.ahead(name) for name in ("a", "b", "c")] == [0, 1, 2]
    gave_up.set()
    threads[1].join(5)
    assert turnstile.ahead("c") == 1
    release.set()
    for thread in threads:
        thread.join(5)
    assert order == ["a", "b left", "c"]


def test_an_error_inside_frees_the_place() -> None:
    turnstile = Turnstile(1)
    for _ in range(2):
        try:
            with turnstile.passing(object(), lambda: False):
                raise ValueError
        except ValueError:
            pass
    assert turnstile.inside == 0
