"""API keys and what they allow.

A key is 32 random bytes, so its unsalted SHA-256 cannot be reversed; only the hash is stored. Hashes are compared in
constant time.
"""

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.home import typed

SCHEMA: Final = "hardrank.keys/1"
READ_VARIABLE: Final = "HARDRANK_READ_KEYS"
WRITE_VARIABLE: Final = "HARDRANK_WRITE_KEYS"
_SHORTEST_KEY: Final = 16
_LONGEST_NAME: Final = 64
_LARGEST_FILE: Final = 2**20


class ApiKeyError(HardrankError):
    """An API key or a key file is invalid."""


class UnauthenticatedError(HardrankError):
    """The request needs an API key and has none, or has an unknown one."""


class ForbiddenError(HardrankError):
    """The API key lacks the role that the request needs."""


class KeyRole(IntEnum):
    """What a caller may do; each role includes the smaller ones."""

    NOTHING = 0
    READ = 1
    """Search and read items."""
    WRITE = 2
    """Add and delete items too."""


class KeyEntry(BaseModel):
    """A key in the key file: its hash, never the key itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=_LONGEST_NAME, description="who uses the key; unique")
    role: Literal["read", "write"]
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the key, hexadecimal")


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["hardrank.keys/1"] = SCHEMA
    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request."""

    name: str
    """Name of the key, or the network address; the rate limit is per name."""
    role: KeyRole


def new_key() -> str:
    """Make a key: 32 random bytes as URL-safe text."""
    return secrets.token_urlsafe(32)


def key_entry(name: str, role: KeyRole, key: str) -> KeyEntry:
    """Make the entry of a key; raises `ApiKeyError` if the key is too short or the name is invalid."""
    if len(key) < _SHORTEST_KEY:
        raise ApiKeyError(f"the key {name!r} has {len(key)} characters; use at least {_SHORTEST_KEY} random ones")
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ApiKeyError(f"invalid key name {name!r}; use 1 to {_LONGEST_NAME} printable characters")
    return KeyEntry(name=name, role="write" if role is KeyRole.WRITE else "read", sha256=_digest(key))


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Read a key file; raises `ApiKeyError` if it does not exist or is invalid."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ApiKeyError(f"{path} is not a key file: it is larger than {_LARGEST_FILE >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = _KeyFile.model_validate(content).keys
    except FileNotFoundError as error:
        raise ApiKeyError(f"{path} does not exist; make a key with `{typed('keys')} add {path} NAME`") from error
    except (OSError, ValueError) as error:  # a ValidationError is a ValueError, and so is damaged JSON
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ApiKeyError(f"{path} is not a key file: {cause}") from error
    if len({key.name for key in keys}) < len(keys):
        raise ApiKeyError(f"{path} has two keys of the same name; remove one of them")
    return keys


def write_keys(path: Path, keys: Iterable[KeyEntry]) -> None:
    """Write a key file that only its owner can read."""
    write_json(path, _KeyFile(keys=tuple(keys)).model_dump(mode="json"))
    path.chmod(0o600)


def keys_of_environment(environment: Mapping[str, str]) -> tuple[KeyEntry, ...]:
    """Return the keys in HARDRANK_READ_KEYS and HARDRANK_WRITE_KEYS, separated by commas; raises `ApiKeyError`."""
    found: list[KeyEntry] = []
    for variable, role in ((READ_VARIABLE, KeyRole.READ), (WRITE_VARIABLE, KeyRole.WRITE)):
        keys = [key.strip() for key in environment.get(variable, "").split(",") if key.strip()]
        found += [key_entry(f"{variable} {number}", role, key) for number, key in enumerate(keys, start=1)]
    return tuple(found)


class Keyring:
    """The known API keys, and the role of callers without one."""

    def __init__(self, entries: Iterable[KeyEntry] = (), *, anonymous: KeyRole = KeyRole.WRITE) -> None:
        self._entries = tuple(entries)
        self.anonymous = anonymous
        """Role of callers without a key."""

    def caller(self, key: str | None, address: str) -> Caller:
        """Identify the caller by key, else by network address; raises `UnauthenticatedError` for an unknown key."""
        if key is None:
            return Caller(name=f"address {network_of(address)}", role=self.anonymous)
        found = self.find(key)
        if found is None:
            raise UnauthenticatedError("Unknown API key; check it, or ask the operator of this server for one.")
        return found

    def find(self, key: str) -> Caller | None:
        """Return the caller of a key, None for an unknown one. Compares all entries, so that timing reveals nothing."""
        digest = _digest(key)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None else Caller(name=f"key {found.name}", role=KeyRole[found.role.upper()])


def require(caller: Caller, role: KeyRole) -> None:
    """Raise unless `caller` may do what `role` may: `UnauthenticatedError` without a key, else `ForbiddenError`."""
    if caller.role >= role:
        return
    what = "Adding or deleting items" if role is KeyRole.WRITE else "This request"
    if caller.name.startswith("key "):
        raise ForbiddenError(
            f"{what} requires the role {role.name.lower()}, and your key lacks it; use a key that has it."
        )
    raise UnauthenticatedError(
        f"{what} requires an API key with the role {role.name.lower()}; send it as `Authorization: Bearer KEY`."
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def network_of(address: str) -> str:
    """Return the address; for IPv6 its /64 network, because one host can choose among 2⁶⁴ addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
