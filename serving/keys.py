"""Make, list and remove API keys.

    python serving/keys.py add FILE NAME [--role write]
    python serving/keys.py list FILE
    python serving/keys.py remove FILE NAME

A key is shown once, when it is made; FILE keeps only its SHA-256. Give FILE to the server:
`python serving/app.py … --api-keys FILE`; it reads the file when it starts.
"""

import argparse
import sys
from pathlib import Path

from hardrank.models.errors import HardrankError
from hardrank.models.home import typed
from hardrank.serving.api.auth import Role, SecurityError, entry_of, new_key, read_keys, write_keys


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command; gives the exit status: 0 done, 2 a mistake in what was asked."""
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except HardrankError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _add(options: argparse.Namespace) -> None:
    keys = read_keys(options.file) if options.file.exists() else ()
    if any(key.name == options.name for key in keys):
        raise SecurityError(
            f"{options.file} has a key called {options.name!r}; remove it first, or choose another name"
        )
    key = new_key()
    write_keys(options.file, [*keys, entry_of(options.name, Role[options.role.upper()], key)])
    print(f"{key}\n\nThis key is not shown again. Send it as `Authorization: Bearer KEY`.")


def _list(options: argparse.Namespace) -> None:
    for key in read_keys(options.file):
        print(f"{key.name:<32} {key.role}")


def _remove(options: argparse.Namespace) -> None:
    keys = read_keys(options.file)
    kept = [key for key in keys if key.name != options.name]
    if len(kept) == len(keys):
        raise SecurityError(f"{options.file} has no key called {options.name!r}; `list` shows what there is")
    write_keys(options.file, kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=typed("keys"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="add|list|remove")
    add = commands.add_parser("add", help="make a key and show it")
    add.set_defaults(act=_add)
    add.add_argument("file", type=Path, help="the file of keys; made if it is not there")
    add.add_argument("name", help="whose key it is, as it is called in the list")
    add.add_argument(
        "--role", choices=("read", "write"), default="read", help="read (default): search; write: also add and delete"
    )
    show = commands.add_parser("list", help="show names and roles")
    show.set_defaults(act=_list)
    show.add_argument("file", type=Path)
    remove = commands.add_parser("remove", help="remove a key")
    remove.set_defaults(act=_remove)
    remove.add_argument("file", type=Path)
    remove.add_argument("name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
