"""The OpenAPI document of the HTTP API, as docs/openapi.json records it.

python serving/openapi.py docs/openapi.json
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

# Run as a script, Python puts this folder first on the path, where `index` and `batching` would hide other modules.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from models.files import write_json
from serving.api import create_api
from serving.metrics import Metrics
from serving.service import SearchService
from serving.settings import Settings


def document() -> dict[str, Any]:
    """Describe the API as it is with default settings."""
    # Routes are described, not called: nothing of a service is needed but its metrics.
    service = cast(SearchService, SimpleNamespace(metrics=Metrics()))
    return create_api(service, Settings()).openapi()


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), document())
