"""The command that starts the audit app: streamlit, on the loopback, with the app's own settings.

    hardrank app [--port 8501] [--host 127.0.0.1] [--zoo DIR] [--gallery PLACE …] [--audits DIR] [--attacks N]

Whoever can open the page can run attacks and name paths of this machine. Other addresses than the loopback are for a
container alone, whose port is published on the loopback of the machine around it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from streamlit.web import cli

from hardrank.audit_app.web.guard import is_loopback
from hardrank.audit_app.web.settings import add_settings
from hardrank.models.home import typed

APP = Path(__file__).resolve().with_name("app.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the app until it is stopped; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=typed("app"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", "--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (default: %(default)s)")
    add_settings(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    server, own = parser.parse_args(given), _without(given, {"--host", "--address", "--port"})
    if not is_loopback(server.host):
        own.append("--open")
        sys.stderr.write(f"warning: whoever reaches {server.host} can run attacks and read this machine's paths\n")
    cli.main(
        ["run", str(APP), "--server.address", server.host, "--server.port", str(server.port), "--", *own],
        standalone_mode=False,
    )
    return 0


def _without(arguments: Sequence[str], names: set[str]) -> list[str]:
    """Leave out options that take one value, as `--name value` and `--name=value`."""
    kept, skip = [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not skip and name not in names:
            kept.append(argument)
        skip = not skip and name in names and not value
    return kept


if __name__ == "__main__":
    sys.exit(main())
