"""Serve image search over HTTP: the API, and the search page.

    python serving/app.py --model BUNDLE=INDEX [--model BUNDLE=INDEX …] [--options]

BUNDLE is a trained model (models/zoo/NAME-robust), INDEX what `python serving/build.py` made with it. A model is called
`benign` or `robust` where the bundle's name ends so, else by the bundle's name; KEY:BUNDLE=INDEX calls it KEY.
"""

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

# ONNX Runtime has threads of its own. Those of OpenMP and BLAS, one pool for each calling thread, would fight them for
# the cores; FAISS and numpy read these variables when they are imported.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")

import tyro
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.markup import escape

from hardrank.models.errors import HardrankError
from hardrank.models.home import typed
from hardrank.serving.api.app import create_api
from hardrank.serving.api.auth import Keyring, Role, keys_of_environment, read_keys
from hardrank.serving.api.protocol import BoundedHeads
from hardrank.serving.engine import Device, Engine
from hardrank.serving.index.search_index import SearchIndex
from hardrank.serving.search.models import Model
from hardrank.serving.search.service import SearchService
from hardrank.serving.settings import Access, Anonymous, Batching, Limits, Network, Settings, SettingsError

_EXAMPLES: Final = """
Examples:
  python serving/app.py --model models/zoo/demo-benign=indexes/demo-benign \\
                        --model models/zoo/demo-robust=indexes/demo-robust
      both models side by side, on this machine alone: http://127.0.0.1:7860
  python serving/keys.py add keys.json anna --role write
  python serving/app.py --model models/zoo/demo-robust=indexes/demo-robust --host 0.0.0.0 --api-keys keys.json
      for other machines too, with API keys
  curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:7860/v1/search?k=5'
      the five most similar items
"""
_SOURCE: Final = re.compile(r"(?:(?P<key>[A-Za-z0-9._\-]+):)?(?P<bundle>[^=]+)=(?P<index>.+)")
_ROLES: Final = {Anonymous.NOTHING: Role.NOTHING, Anonymous.READ: Role.READ, Anonymous.WRITE: Role.WRITE}
_SWITCH_S: Final = 0.001
"""Seconds after which a thread that holds the interpreter lets others have it; Python's 5 ms are long for a query."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """All options of the command."""

    model: tuple[str, ...]
    """[KEY:]BUNDLE=INDEX of a model to serve."""
    threads: int = 0
    """Threads that work on one batch in the network; 0: one for each core."""
    device: Device = Device.AUTO
    """Where the networks run; auto: on a GPU where there is one."""
    read_only: bool = False
    """Open the indexes for reading alone: nobody adds or deletes through this server."""
    metrics: bool = True
    """Whether /metrics answers (Prometheus text, no secret in it)."""
    page: bool = True
    """Whether the search page is served at /."""
    log_level: Annotated[str, tyro.conf.arg(metavar="{debug,info,warning,error}")] = "warning"
    """Least severity of what is logged to the standard error; info: every request."""
    network: Annotated[Network, tyro.conf.arg(name="")] = field(default_factory=Network)
    access: Annotated[Access, tyro.conf.arg(name="")] = field(default_factory=Access)
    batching: Annotated[Batching, tyro.conf.arg(name="")] = field(default_factory=Batching)
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)

    def settings(self) -> Settings:
        """Give what the server is told."""
        return Settings(
            network=self.network,
            access=self.access,
            limits=self.limits,
            batching=self.batching,
            metrics=self.metrics,
            page=self.page,
        )


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; gives the exit status: 0 ended by SIGTERM or Ctrl-C, 2 a mistake in what was asked."""
    errors = Console(stderr=True)
    try:
        command = tyro.cli(
            Command,
            prog=typed("serve"),
            description=f"{__doc__}\n{_EXAMPLES}",
            args=arguments,
            config=(tyro.conf.EnumChoicesFromValues, tyro.conf.UseAppendAction),
        )
        _serve(command, Console(), errors)
    except HardrankError as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def create_app(
    service: SearchService, settings: Settings, keyring: Keyring, *, ending: asyncio.Event | None = None
) -> FastAPI:
    """Make the whole application: the API, and the page unless it is switched off (`ending`: see `create_api`)."""
    app = create_api(service, settings, keyring, ending=ending)
    if settings.page:
        # Gradio takes seconds to import, and asks its makers' host for news unless it is told not to.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from hardrank.serving.page.mount import mount_page

        mount_page(app, service, settings, auth=_login(keyring))
    return app


def load_model(source: str, *, threads: int = 0, device: Device = Device.AUTO, writable: bool = True) -> Model:
    """Load `[KEY:]BUNDLE=INDEX`; raises a `HardrankError` where one is missing, damaged, or made for another."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise SettingsError(f"--model is {source!r}; give BUNDLE=INDEX, as models/zoo/demo-robust=indexes/demo-robust")
    engine = Engine(Path(match["bundle"]), threads=threads, device=device)
    index = SearchIndex.open(Path(match["index"]), model_sha256=engine.model_sha256, writable=writable)
    return Model(key=match["key"] or _key_of(engine.card.name), engine=engine, index=index)


def keyring_of(settings: Settings) -> Keyring:
    """Gather the keys that the settings and the environment name; raises `SecurityError`."""
    access = settings.access
    keys = (*(read_keys(access.api_keys) if access.api_keys else ()), *keys_of_environment(os.environ))
    anonymous = access.anonymous
    if anonymous is Anonymous.AUTO:
        beyond = Anonymous.WRITE if settings.network.loopback else Anonymous.READ
        anonymous = Anonymous.NOTHING if keys else beyond
    return Keyring(keys, anonymous=_ROLES[anonymous])


def _serve(command: Command, console: Console, errors: Console) -> None:
    sys.setswitchinterval(_SWITCH_S)
    logging.basicConfig(level=command.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = command.settings()
    keyring = keyring_of(settings)
    models = [
        load_model(source, threads=command.threads, device=command.device, writable=not command.read_only)
        for source in command.model
    ]
    service = SearchService(models, settings)
    ending = asyncio.Event()
    app = create_app(service, settings, keyring, ending=ending)
    with _listen(settings.network) as listener:
        _announce(console, service, settings, listener)
        _warn(errors, settings, keyring)
        _run(_server(app, settings, command.log_level, ending), listener)


class _Server(uvicorn.Server):
    """Tells the application when no more requests are taken."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what was accepted, but not for streams that have no end."""
        self._ending.set()
        await super().shutdown(sockets)


def _server(app: FastAPI, settings: Settings, log_level: str, ending: asyncio.Event) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            http=BoundedHeads,
            log_config=None,
            log_level=log_level,
            access_log=log_level in {"debug", "info"},
            server_header=False,
            proxy_headers=bool(settings.access.proxies),
            forwarded_allow_ips=list(settings.access.proxies),
            timeout_graceful_shutdown=max(1, round(settings.network.drain_seconds)),
            ws="none",
        ),
        ending,
    )


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run until SIGTERM or Ctrl-C; both end in order. uvicorn would raise the signal again once it is done."""

    def end(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run(sockets=[listener])


def _listen(network: Network) -> socket.socket:
    """Open the port before anything is said about it; raises `SettingsError` where that is not possible."""
    family = socket.AF_INET6 if ":" in network.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((network.host, network.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {network.host} port {network.port} ({error.strerror or error}); another server may run "
            "there: choose another --port, or 0 for any free one"
        ) from error
    return listener


def _announce(console: Console, service: SearchService, settings: Settings, listener: socket.socket) -> None:
    host, port = settings.network.host, listener.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
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
    console.print("Ctrl-C ends.", highlight=False)


def _warn(errors: Console, settings: Settings, keyring: Keyring) -> None:
    """Say loudly what anybody on the network may do."""
    if settings.network.loopback or keyring.anonymous is Role.NOTHING:
        return
    what = "search, add and delete" if keyring.anonymous is Role.WRITE else "search"
    errors.print(
        f"[bold red]warning[/]: everybody who reaches {escape(settings.network.host)} may {what} without a key. "
        "Make keys with `python serving/keys.py add keys.json NAME` and give --api-keys keys.json, or "
        "listen on 127.0.0.1.",
        highlight=False,
        soft_wrap=True,
    )


def _key_of(name: str) -> str:
    ending = name.rpartition("-")[2]
    return ending if ending in {"benign", "robust"} else name


class _Login:
    """Lets people with a key see the page: any name, the key as the password."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def __call__(self, name: str, key: str) -> bool:
        return self._keyring.find(key) is not None


def _login(keyring: Keyring) -> _Login | None:
    return _Login(keyring) if keyring.anonymous is Role.NOTHING else None


if __name__ == "__main__":
    sys.exit(main())
