"""Make, list and remove API keys.

A key is shown only once, when it is made; the key file has just its SHA-256. Pass the file to the server as --api-keys;
the server reads it again whenever it changes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import tyro

from hardrank.models.command_errors import report_errors
from hardrank.models.home import typed
from hardrank.serving.api.auth import ApiKeyError, KeyRole, key_entry, new_key, read_keys, write_keys

_EXAMPLES: Final = """
Examples:
  {keys} add keys.json anna
      a key for anna, who may search
  {keys} add keys.json importer --role write
      a key that may add and delete items too
  {keys} list keys.json
      names and roles
  {serve} --model models/zoo/demo-robust=indexes/demo-robust --host 0.0.0.0 --api-keys keys.json
      serve to callers with one of these keys
"""


class GrantableRole(StrEnum):
    """Role that a key can be given."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class AddKey:
    """Make a key, add it to the key file and show it."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Key file; created if it does not exist."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Who uses the key."""
    role: GrantableRole = GrantableRole.READ
    """read: search and read items; write: add and delete items too."""


@dataclass(frozen=True)
class ListKeys:
    """Show the names and roles of all keys in the key file."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Key file."""


@dataclass(frozen=True)
class RemoveKey:
    """Remove a key from the key file."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Key file."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the key, as shown by `list`."""


Command = (
    Annotated[AddKey, tyro.conf.subcommand("add")]
    | Annotated[ListKeys, tyro.conf.subcommand("list")]
    | Annotated[RemoveKey, tyro.conf.subcommand("remove")]
)


@report_errors()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0 done, 2 invalid arguments, 130 interrupted."""
    examples = _EXAMPLES.format(keys=typed("keys"), serve=typed("serve"))
    command = tyro.cli(
        Command,
        prog=typed("keys"),
        description=f"{__doc__}{examples}",
        args=arguments,
        config=(tyro.conf.EnumChoicesFromValues,),
    )
    match command:
        case AddKey():
            _add(command)
        case ListKeys():
            for key in read_keys(command.file):
                print(f"{key.name:<32} {key.role}")
        case RemoveKey():
            _remove(command)
    return 0


def _add(command: AddKey) -> None:
    keys = read_keys(command.file) if command.file.exists() else ()
    if any(key.name == command.name for key in keys):
        raise ApiKeyError(f"{command.file} already has a key named {command.name!r}; remove it or choose another name")
    key = new_key()
    write_keys(command.file, [*keys, key_entry(command.name, KeyRole[command.role.name], key)])
    print(f"{key}\n\nThis key is not shown again. Send it in the header `Authorization: Bearer KEY`.")


def _remove(command: RemoveKey) -> None:
    keys = read_keys(command.file)
    kept = [key for key in keys if key.name != command.name]
    if len(kept) == len(keys):
        names = ", ".join(key.name for key in keys) or "none"
        raise ApiKeyError(f"{command.file} has no key named {command.name!r}; it has: {names}")
    write_keys(command.file, kept)


if __name__ == "__main__":
    sys.exit(main())
