"""Which caller sends a request, and whether key and rate limit allow it."""

from typing import Any

from fastapi import Depends, Request

from hardrank.models.errors import HardrankError
from hardrank.serving.api.auth import Caller, Keyring, KeyRole, UnauthenticatedError, require
from hardrank.serving.api.middleware import address_of
from hardrank.serving.api.rate_limit import RateLimit


class AccessControl:
    """Checks the API key and the rate limit of each request."""

    def __init__(self, keyring: Keyring, rate: RateLimit) -> None:
        self._keyring = keyring
        self._rate = rate

    def requires(self, role: KeyRole, *, counted: bool = True) -> Any:
        """Return the dependency for routes that require `role`; the rate limit counts the allowed requests too."""

        async def check(request: Request) -> None:
            self.check(request, role, counted=counted)

        return Depends(check)

    def check(self, request: Request, role: KeyRole, *, counted: bool = True) -> None:
        """Check a request that requires `role`, and note its caller.

        Raises as `Keyring.caller` and `require`, and `RateLimitedError`.
        """
        address = address_of(request.scope)
        try:
            caller = self._keyring.caller(_key_of(request), address)
            require(caller, role)
        except HardrankError:
            self._rate.take(self._keyring.caller(None, address).name)  # guessing keys is limited too
            raise
        if counted:
            self._rate.take(caller.name)
        request.state.caller = caller

    def take_batch(self, request: Request, queries: int) -> None:
        """Count the queries of an allowed request, which counts as one already.

        Raises `RateLimitedError`, and `InvalidSearchError` for more queries than the limit ever admits at once.
        """
        self._rate.check_size(queries)
        if queries > 1:
            self._rate.take(caller_name(request), queries - 1)

    def charge(self, request: Request, size: int) -> None:
        """Count `size` bytes of the response to an allowed request."""
        self._rate.charge(caller_name(request), size)


def caller_name(request: Request) -> str:
    """Return the name by which limits count the caller of an allowed request."""
    caller: Caller = request.state.caller
    return caller.name


def _key_of(request: Request) -> str | None:
    """Return the key from either header; raises `UnauthenticatedError` for another authentication scheme."""
    header = request.headers.get("authorization")
    if header is None:
        return request.headers.get("x-api-key")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthenticatedError("The Authorization header has no API key; send it as `Authorization: Bearer KEY`.")
    return key.strip()
