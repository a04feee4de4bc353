"""A route that passes requests to its endpoint without FastAPI's parsing of parameters."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from hardrank.serving.api.access import AccessControl
from hardrank.serving.api.auth import KeyRole


class DirectRoute(Route):
    """A POST route that requires the role READ, for an endpoint whose only parameter is the request.

    FastAPI would spend as much time on resolving the parameters as the rest of the request takes. The route is not part
    of the OpenAPI document.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], access: AccessControl) -> None:
        async def answer(request: Request) -> Response:
            access.check(request, KeyRole.READ)
            return await endpoint(request)

        super().__init__(path, answer, methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match like any route, and name the route in the scope, from which the metrics read it."""
        match, more = super().matches(scope)
        return match, {**more, "route": self}
