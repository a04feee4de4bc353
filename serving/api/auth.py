"""API keys, what they allow, and how often.

A key is 32 random bytes, so that its plain SHA-256 cannot be turned back; only that is kept. Comparisons take the same
time whatever they compare.
"""

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardrank.models.errors import HardrankError
from hardrank.models.files import write_json

SCHEMA: Final = "hardrank.keys/1"
READ_VARIABLE: Final = "HARDRANK_READ_KEYS"
WRITE_VARIABLE: Final = "HARDRANK_WRITE_KEYS"
_SHORTEST_KEY: Final = 16
_LONGEST_NAME: Final = 64
_MOST_BUCKETS: Final = 100_000
_LARGEST_FILE: Final = 2**20


class SecurityError(HardrankError):
    """A file of keys, or a key, that cannot be used."""


class UnauthenticatedError(HardrankError):
    """A request without a key that needs one, or with an unknown key."""


class ForbiddenError(HardrankError):
    """A request beyond what its key allows."""


class RateLimitedError(HardrankError):
    """A caller that is above its rate."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds after which the same request is within the rate."""


class Role(IntEnum):
    """What a caller may do; a larger one includes the smaller."""

    NOTHING = 0
    READ = 1
    """Search, and look at items."""
    WRITE = 2
    """Add and delete items too."""


class KeyEntry(BaseModel):
    """A key as the file keeps it: never the key itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=_LONGEST_NAME, description="whose key it is; unique")
    role: Literal["read", "write"]
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the key, hexadecimal")


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["hardrank.keys/1"] = SCHEMA
    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a request."""

    name: str
    """Of the key, or the network address; what rates are counted by."""
    role: Role


def new_key() -> str:
    """Make a key: 32 random bytes in URL-safe text."""
    return secrets.token_urlsafe(32)


def entry_of(name: str, role: Role, key: str) -> KeyEntry:
    """Make the entry of a key; raises `SecurityError` for a key that could be guessed."""
    if len(key) < _SHORTEST_KEY:
        raise SecurityError(
            f"the key {name!r} has {len(key)} characters; give at least {_SHORTEST_KEY}, drawn at random"
        )
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise SecurityError(f"{name!r} is no name of a key; give 1 to {_LONGEST_NAME} printable characters")
    return KeyEntry(name=name, role="write" if role is Role.WRITE else "read", sha256=_digest(key))


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Read a file of keys; raises `SecurityError` where it is missing or damaged."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SecurityError(f"{path} is larger than {_LARGEST_FILE >> 20} MiB, so it is no file of keys")
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = _KeyFile.model_validate(content).keys
    except FileNotFoundError as error:
        raise SecurityError(f"{path} is missing; make a key with `python serving/keys.py add {path} NAME`") from error
    except (OSError, ValueError) as error:  # a ValidationError is a ValueError, and so is damaged JSON
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SecurityError(f"{path} is no file of keys: {cause}") from error
    if len({key.name for key in keys}) < len(keys):
        raise SecurityError(f"{path} has two keys of one name; remove one")
    return keys


def write_keys(path: Path, keys: Iterable[KeyEntry]) -> None:
    """Write a file of keys that only its owner may read."""
    write_json(path, _KeyFile(keys=tuple(keys)).model_dump(mode="json"))
    path.chmod(0o600)


def keys_of_environment(environment: Mapping[str, str]) -> tuple[KeyEntry, ...]:
    """Give the keys in HARDRANK_READ_KEYS and HARDRANK_WRITE_KEYS (commas between); raises `SecurityError`."""
    found: list[KeyEntry] = []
    for variable, role in ((READ_VARIABLE, Role.READ), (WRITE_VARIABLE, Role.WRITE)):
        keys = [key.strip() for key in environment.get(variable, "").split(",") if key.strip()]
        found += [entry_of(f"{variable} {number}", role, key) for number, key in enumerate(keys, start=1)]
    return tuple(found)


class Keyring:
    """All keys that are known."""

    def __init__(self, entries: Iterable[KeyEntry] = (), *, anonymous: Role = Role.WRITE) -> None:
        self._entries = tuple(entries)
        self.anonymous = anonymous
        """What a caller without a key may do."""

    def caller(self, key: str | None, address: str) -> Caller:
        """Say who sent `key` from a network address; raises `UnauthenticatedError` for an unknown key."""
        if key is None:
            return Caller(name=f"address {_network(address)}", role=self.anonymous)
        found = self.find(key)
        if found is None:
            raise UnauthenticatedError("The API key is unknown; check it, or ask whoever runs this server for one.")
        return found

    def find(self, key: str) -> Caller | None:
        """Give the caller of a key, None for an unknown one. All entries are compared, found or not."""
        digest = _digest(key)
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None else Caller(name=f"key {found.name}", role=Role[found.role.upper()])


def require(caller: Caller, role: Role) -> None:
    """Raise unless `caller` may do what `role` may: `UnauthenticatedError` without a key, else `ForbiddenError`."""
    if caller.role >= role:
        return
    what = "Adding and deleting items" if role is Role.WRITE else "This"
    if caller.name.startswith("key "):
        raise ForbiddenError(f"{what} needs a key with the role {role.name.lower()}; yours has not got it.")
    raise UnauthenticatedError(
        f"{what} needs an API key with the role {role.name.lower()}; send it as `Authorization: Bearer KEY`."
    )


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(kw_only=True)
class RateLimit:
    """A bucket of tokens for each caller: `burst` at most, refilled at `rate` a second. Used from one event loop."""

    rate: float
    """Tokens a second; 0: no limit."""
    burst: int
    clock: Callable[[], float] = monotonic
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict, init=False, repr=False)

    def take(self, caller: str, tokens: int = 1) -> None:
        """Take tokens of `caller`; raises `RateLimitedError`, which says when there are enough."""
        if not self.rate:
            return
        if tokens > self.burst:
            raise RateLimitedError(
                f"{tokens} queries in one request are more than the {self.burst} that the rate limit ever allows at "
                "once; send fewer at a time.",
                retry_after_s=1,
            )
        now = self.clock()
        bucket = self._bucket(caller, now)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.rate)
        bucket.at = now
        if bucket.tokens < tokens:
            wait = int((tokens - bucket.tokens) / self.rate) + 1
            raise RateLimitedError(
                f"More than {self.rate:g} requests a second; try again in {wait} s.", retry_after_s=wait
            )
        bucket.tokens -= tokens

    def _bucket(self, caller: str, now: float) -> _Bucket:
        if caller in self._buckets:
            self._buckets.move_to_end(caller)
        else:
            self._buckets[caller] = _Bucket(tokens=self.burst, at=now)
            if len(self._buckets) > _MOST_BUCKETS:  # the one that was quiet for the longest time
                self._buckets.popitem(last=False)
        return self._buckets[caller]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _network(address: str) -> str:
    """Give the address, or for IPv6 the /64 around it: a household has 2⁶⁴ addresses to choose from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
