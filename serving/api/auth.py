"""API keys and what they allow.

A key is 32 random bytes, so its unsalted SHA-256 cannot be reversed; only the hash is stored. Hashes are compared in
constant time.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json
from hardrank.models.home import typed

SCHEMA: Final = "hardrank.keys/1"
READ_VARIABLE: Final = "HARDRANK_READ_KEYS"
WRITE_VARIABLE: Final = "HARDRANK_WRITE_KEYS"
_LOG: Final = logging.getLogger(__name__)
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

    def __init__(
        self, entries: Iterable[KeyEntry] = (), *, file: Path | None = None, anonymous: KeyRole = KeyRole.WRITE
    ) -> None:
        """Take the keys.

        Args:
            entries: Keys that stay.
            file: Key file, which is read now, and again whenever it has changed.
            anonymous: Role of callers without a key.

        Raises:
            ApiKeyError: The key file does not exist or is invalid.
        """
        self._fixed = tuple(entries)
        self._file = file
        self._version = _file_version(file)
        self._entries = (*(read_keys(file) if file else ()), *self._fixed)
        self._on_change: list[Callable[[], None]] = []
        self.anonymous = anonymous
        """Role of callers without a key."""

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._entries)

    def on_change(self, call: Callable[[], None]) -> None:
        """Call `call` whenever the key file was read again."""
        self._on_change.append(call)

    def caller(self, key: str | None, address: str) -> Caller:
        """Identify the caller by key, else by network address; raises `UnauthenticatedError` for an unknown key."""
        self._refresh()
        if key is None:
            return Caller(name=address_caller(address), role=self.anonymous)
        found = self.find(key)
        if found is None:
            raise UnauthenticatedError("Unknown API key; check it, or ask the operator of this server for one.")
        return found

    def find(self, key: str) -> Caller | None:
        """Return the caller of a key, None for an unknown one. Compares all entries, so that timing reveals nothing."""
        self._refresh()
        digest = _digest(key)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None else Caller(name=f"key {found.name}", role=KeyRole[found.role.upper()])

    def _refresh(self) -> None:
        """Read the key file again if it has changed; keep the former keys if it cannot be read."""
        version = _file_version(self._file)
        if version == self._version or self._file is None:
            return
        self._version = version
        try:
            self._entries = (*read_keys(self._file), *self._fixed)
        except ApiKeyError as error:
            _LOG.error("the keys stay as they were: %s", error)
            return
        for call in self._on_change:
            call()


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


def _file_version(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes whenever a file is written or replaced; None if it does not exist."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def address_caller(address: str) -> str:
    """Return the name of a caller without a key."""
    return f"address {network_of(address)}"


@lru_cache(maxsize=4096)
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
