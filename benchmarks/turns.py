"""Contenders in processes of their own that take turns: what one sets in its process, another does not get."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Forms = Mapping[str, Callable[..., Any]]
"""What a process can be asked to run, by name."""

T = TypeVar("T")


def apart(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function of a module in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **options).result()


class OwnProcess(AbstractContextManager["OwnProcess"]):
    """A process that builds its forms once and then runs them as it is told; the caller waits meanwhile."""

    def __init__(self, build: Callable[..., Forms], *arguments: Any) -> None:
        """Start it. `build` and its arguments are pickled: a function of a module, plain values."""
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, name: str, *arguments: Any) -> Any:
        """Run a form there and return its result.

        Raises:
            SystemExit: the process failed; it has printed why.
        """
        self._connection.send((name, arguments))
        try:
            return self._connection.recv()
        except EOFError:
            raise SystemExit(f"error: the process that was to run {name!r} failed") from None

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, build: Callable[..., Forms], arguments: tuple[Any, ...]) -> None:
    forms = build(*arguments)
    while True:
        name, values = connection.recv()
        connection.send(forms[name](*values))
