"""Start the audit app in Streamlit.

The app attacks models live, runs audits and shows their results in the browser. Everyone who can open it can run
attacks and read paths of this machine, so by default it listens on 127.0.0.1, which only this machine can reach. Set
another --host only in a container whose port is published on the loopback of its host.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NoReturn

import tyro
from streamlit.web import cli

from hardrank.audit_app.errors import AuditError
from hardrank.audit_app.web.settings import ALLOW_REMOTE, AppSettings, checked
from hardrank.models.home import typed
from hardrank.serving.settings import is_loopback
from hardrank.trainer.runtime.malloc import tune_allocator

APP: Final = Path(__file__).resolve().with_name("app.py")

_EXAMPLES: Final = """
Examples:
  {command}
      the bundles in models/zoo, attacked on the test images of their runs: http://127.0.0.1:8501
  {command} --gallery indexes/demo-benign indexes/demo-robust
      on the images of two indexes, one per model
  {command} --zoo bundles --gallery photos/ --audits audits/ --port 9000
      on a folder of images with one subfolder per class; audits are read from and written to audits/
"""


@dataclass(frozen=True, kw_only=True)
class _Command:
    """The options of the command."""

    host: Annotated[str, tyro.conf.arg(aliases=["--address"])] = "127.0.0.1"
    """Address to listen on; 127.0.0.1: only this machine can reach the app."""
    port: int = 8501
    """Port to listen on."""
    app: Annotated[AppSettings, tyro.conf.arg(name="")] = field(default_factory=AppSettings)


def main(arguments: Sequence[str] | None = None, *, run: Callable[[list[str]], object] = cli.main) -> int:
    """Serve the app until it is stopped.

    Args:
        arguments: The command line; None: that of the process.
        run: Called with the arguments of the `streamlit` command.

    Returns:
        The exit status: 0 stopped, 2 invalid options, 130 interrupted.
    """
    name = typed("app")
    command = tyro.cli(_Command, prog=name, description=f"{__doc__}{_EXAMPLES.format(command=name)}", args=arguments)
    try:
        settings = checked(command.app)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    loopback = is_loopback(command.host)
    if not loopback:
        sys.stderr.write(
            f"warning: everyone who reaches {command.host} can run attacks and read paths of this machine\n"
        )
    tune_allocator()
    status = _serve(command, settings, open=not loopback, run=run)
    return _leave(status) if run is cli.main else status


def _serve(command: _Command, settings: AppSettings, *, open: bool, run: Callable[[list[str]], object]) -> int:
    """Run Streamlit until it is stopped; return the exit status."""
    server = ["--server.address", command.host, "--server.port", str(command.port)]
    try:
        run(["run", str(APP), *server, "--", *_arguments(settings, open=open)])
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def _leave(status: int) -> NoReturn:
    """End the process without tearing down the interpreter.

    Threads of Streamlit still hold objects of libraries, some of which report that as leaks, as if it were a crash.
    """
    atexit._run_exitfuncs()  # deletes temporary folders
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _arguments(settings: AppSettings, *, open: bool) -> list[str]:
    """Return settings as the command line that `read_settings` parses."""
    gallery = ["--gallery", *settings.gallery] if settings.gallery else []
    options = ["--zoo", str(settings.zoo), "--audits", str(settings.audits), "--attacks", str(settings.attacks)]
    return [*options, *gallery, *([ALLOW_REMOTE] if open else [])]


if __name__ == "__main__":
    sys.exit(main())
