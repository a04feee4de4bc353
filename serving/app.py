"""Serve image search over HTTP: an API under /v1, and a search page at /.

BUNDLE is the folder of a trained model, INDEX an index that was made with that model. A model's key, by which callers
name it, is `benign` or `robust` if the bundle's name ends with that word, otherwise the bundle's name;
KEY:BUNDLE=INDEX sets another one.
With the models `benign` and `robust`, or any two models, the answers also tell how much the two disagree.
"""

import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

# ONNX Runtime has its own threads. OpenMP and BLAS would start a pool per calling thread and compete with them for the
# cores. FAISS and numpy read these variables at import.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")

import tyro
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.markup import escape

from hardrank.models.command_errors import report_errors
from hardrank.models.cores import usable_cores
from hardrank.models.home import typed
from hardrank.serving.api.app import create_api
from hardrank.serving.api.auth import Keyring, KeyRole, keys_of_environment
from hardrank.serving.api.protocol import limited_protocol
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Access, Anonymous, Batching, Limits, Network, Settings, SettingsError

_EXAMPLES: Final = """
Examples:
  {index} --model models/zoo/demo-robust --images photos --out indexes/photos
  {serve} --model models/zoo/demo-robust=indexes/photos
      index a folder of images, then search it at http://127.0.0.1:7860
  {serve} --model models/zoo/demo-benign=indexes/demo-benign --model models/zoo/demo-robust=indexes/demo-robust
      two models side by side
  {keys} add keys.json anna --role write
  {serve} --model models/zoo/demo-robust=indexes/demo-robust --host 0.0.0.0 --api-keys keys.json
      other machines too, with an API key
  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:7860/v1/search?k=5'
      the five most similar items as JSON; http://127.0.0.1:7860/docs documents the API
"""
_SOURCE: Final = re.compile(r"(?:(?P<key>[A-Za-z0-9._\-]+):)?(?P<bundle>[^=]+)=(?P<index>.+)")
_ROLES: Final = {Anonymous.NOTHING: KeyRole.NOTHING, Anonymous.READ: KeyRole.READ, Anonymous.WRITE: KeyRole.WRITE}
_RESERVED_DESCRIPTORS: Final = 96
"""File descriptors for everything but connections: indexes, images, libraries."""
_SWITCH_S: Final = 0.001
"""Switch interval of the interpreter, seconds; the default of 5 ms adds too much latency to a query."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command."""

    model: tuple[str, ...]
    """[KEY:]BUNDLE=INDEX of a model to serve; repeat it for several."""
    threads: int = field(default_factory=usable_cores)
    """CPU threads; by default HARDRANK_THREADS if set, else one per usable core."""
    device: Device = Device.AUTO
    """Where the networks run; auto: on a GPU if there is one."""
    read_only: bool = False
    """Open the indexes read-only: nobody can add or delete items through this server."""
    metrics: bool = True
    """Serve /metrics for Prometheus; it needs a key only if anonymous callers may do nothing."""
    page: bool = True
    """Serve the search page at /."""
    log_level: Annotated[str, tyro.conf.arg(metavar="{debug,info,warning,error}")] = "warning"
    """Lowest severity to log to standard error; info includes every request."""
    network: Annotated[Network, tyro.conf.arg(name="")] = field(default_factory=Network)
    access: Annotated[Access, tyro.conf.arg(name="")] = field(default_factory=Access)
    batching: Annotated[Batching, tyro.conf.arg(name="")] = field(default_factory=Batching)
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)

    def settings(self) -> Settings:
        """Return the settings of the server."""
        return Settings(
            network=self.network,
            access=self.access,
            limits=self.limits,
            batching=self.batching,
            metrics=self.metrics,
            page=self.page,
        )


@report_errors()
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit status: 0 after an orderly end, 2 for invalid arguments."""
    examples = _EXAMPLES.format(serve=typed("serve"), index=typed("index"), keys=typed("keys"))
    command = tyro.cli(
        Command,
        prog=typed("serve"),
        description=f"{__doc__}{examples}",
        args=arguments,
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.UseAppendAction),
    )
    _serve(command, Console(), Console(stderr=True))
    return 0


def create_app(service: SearchService, settings: Settings, keyring: Keyring) -> FastAPI:
    """Make the application: the API and, unless it is switched off, the page."""
    app = create_api(service, settings, keyring)
    if settings.page:
        # Gradio takes seconds to import, and contacts its vendor unless analytics are disabled.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from hardrank.serving.page.mount import mount_page

        # Anonymous visitors could try out on this list whether a planted item would be noticed.
        may_scan = keyring.anonymous is not KeyRole.READ
        auth = keyring.find if keyring.anonymous is KeyRole.NOTHING else None
        forget_logins = mount_page(
            app, service, settings, app.state.bodies, app.state.rate, auth=auth, may_scan=may_scan
        )
        keyring.on_change(forget_logins)
    return app


def load_model(source: str, *, threads: int = 0, device: Device = Device.AUTO, writable: bool = True) -> Model:
    """Load `[KEY:]BUNDLE=INDEX`; raises a `HardrankError` if either is missing or damaged, or they do not match."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise SettingsError(f"--model is {source!r}; use BUNDLE=INDEX, such as models/zoo/photos-robust=indexes/photos")
    engine = Engine(Path(match["bundle"]), threads=threads, device=device, side_by_side=True)
    index = SearchIndex.open(Path(match["index"]), model_sha256=engine.model_sha256, writable=writable)
    return Model(key=match["key"] or _key_of(engine.card.name), engine=engine, index=index)


def keyring_of(settings: Settings) -> Keyring:
    """Return the keys from the key file and the environment; raises `ApiKeyError`."""
    access = settings.access
    keyring = Keyring(keys_of_environment(os.environ), file=access.api_keys)
    anonymous = access.anonymous
    if anonymous is Anonymous.AUTO:
        without_keys = Anonymous.WRITE if settings.network.loopback else Anonymous.READ
        anonymous = Anonymous.NOTHING if len(keyring) or access.api_keys else without_keys
    keyring.anonymous = _ROLES[anonymous]
    return keyring


def _serve(command: Command, console: Console, errors: Console) -> None:
    sys.setswitchinterval(_SWITCH_S)
    logging.basicConfig(level=command.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = command.settings()
    keyring = keyring_of(settings)
    with _listen(settings.network) as listener:  # first, since models take seconds to load
        models = [
            load_model(source, threads=command.threads, device=command.device, writable=not command.read_only)
            for source in command.model
        ]
        service = SearchService(models, settings)
        app = create_app(service, settings, keyring)
        _announce(console, service, settings, listener)
        _warn(errors, settings, keyring)
        _run(_server(app, settings, command.log_level), listener)


def _server(app: FastAPI, settings: Settings, log_level: str) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=limited_protocol(
                settings.limits, proxies=settings.access.proxies, most=_spare_descriptors(settings.limits.connections)
            ),
            log_config=None,
            log_level=log_level,
            access_log=log_level in {"debug", "info"},
            server_header=False,
            proxy_headers=bool(settings.access.proxies),
            forwarded_allow_ips=list(settings.access.proxies),
            timeout_graceful_shutdown=max(1, round(settings.network.drain_seconds)),
            ws="none",
            root_path=settings.network.root_path,
        )
    )


def _spare_descriptors(needed: int) -> int | None:
    """Return how many connections the process can open, after raising its own limit; None if that is unknown."""
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed + _RESERVED_DESCRIPTORS
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return needed if soft == resource.RLIM_INFINITY else max(2, soft - _RESERVED_DESCRIPTORS)


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run until SIGTERM or Ctrl-C, then shut down. uvicorn's own handler would raise the signal again at the end."""

    def stop(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listener])


def _listen(network: Network) -> socket.socket:
    """Bind the port before it is announced; raises `SettingsError` if that fails."""
    family = socket.AF_INET6 if ":" in network.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((network.host, network.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {network.host} port {network.port} ({error.strerror or error}); choose another "
            "--port, or 0 for any free port"
        ) from error
    return listener


def _announce(console: Console, service: SearchService, settings: Settings, listener: socket.socket) -> None:
    host, port = settings.network.host, listener.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if settings.network.root_path:
        console.print(
            f"behind a reverse proxy that serves {settings.network.root_path}/ from here", highlight=False, markup=False
        )
    for key, model in service.models.items():
        console.print(
            f"{key}: {model.engine.name} ({model.engine.card.defense}), {model.index.size} items, "
            f"{model.index.stats().backend}, on {model.engine.device}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if settings.page:
        console.print(f"page  {url}/", highlight=False, markup=False, soft_wrap=True)
    console.print(f"API   {url}/v1/  documented at {url}/docs", highlight=False, markup=False, soft_wrap=True)
    console.print("Press Ctrl-C to stop.", highlight=False)


def _warn(errors: Console, settings: Settings, keyring: Keyring) -> None:
    """Warn about what anyone on the network may do without a key."""
    if settings.network.loopback or keyring.anonymous is KeyRole.NOTHING:
        return
    what = "search, add and delete items" if keyring.anonymous is KeyRole.WRITE else "search"
    errors.print(
        f"[bold red]warning[/]: anyone who can reach {escape(settings.network.host)} may {what} without a key. "
        f"Make a key with `{typed('keys')} add keys.json NAME` and use --api-keys keys.json, or use "
        "--host 127.0.0.1.",
        highlight=False,
        soft_wrap=True,
    )


def _key_of(name: str) -> str:
    ending = name.rpartition("-")[2]
    return ending if ending in {"benign", "robust"} else name


if __name__ == "__main__":
    sys.exit(main())
