"""A stand-in for the Hub: repositories are folders of this machine, spoken to over HTTP as the Hub's library does."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.root / name).mkdir(parents=True, exist_ok=True)
            self._answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif path == "/api/validate-yaml":
            head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            missing = [] if "license" in head else [{"message": "license is missing"}]
            self._answer({"errors": missing, "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    file = self.root / repository / entry["value"]["path"]
                    file.write_bytes(base64.b64decode(entry["value"]["content"]))
            url = f"http://{self.headers['Host']}/{repository}/commit/{self._revision(repository)}"
            self._answer({"commitUrl": url, "commitOid": self._revision(repository), "hookOutput": ""})
        else:
            self._answer({"error": f"no such route: {path}"}, status=404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/") and "/tree/" in path:
            repository = path.removeprefix("/api/models/").partition("/tree/")[0]
            files = sorted((self.root / repository).iterdir())
            self._answer(
                [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _blob(file.read_bytes())}
                    for file in files
                ]
            )
        elif path.startswith("/api/models/"):
            repository = path.removeprefix("/api/models/").partition("/revision/")[0]
            if not (self.root / repository).is_dir():
                self._answer({"error": "Repository not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
                return
            names = sorted(file.name for file in (self.root / repository).iterdir())
            siblings = [{"rfilename": name} for name in names]
            self._answer(
                {
                    "id": repository,
                    "sha": self._revision(repository),
                    "siblings": siblings,
                    "tags": [],
                    "private": False,
                }
            )
        else:
            repository, _, place = path.strip("/").partition("/resolve/")
            file = self.root / repository / place.partition("/")[2]
            if not file.is_file():
                self._answer({"error": f"no such file: {path}"}, status=404)
                return
            content = file.read_bytes()
            self._send(content, headers={"ETag": f'"{_blob(content)}"', "X-Repo-Commit": self._revision(repository)})

    do_HEAD = do_GET  # noqa: N815

    def _revision(self, repository: str) -> str:
        content = b"".join(file.read_bytes() for file in sorted((self.root / repository).iterdir()))
        return hashlib.sha1(content).hexdigest()

    def _answer(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            json.dumps(content).encode(), status=status, headers={"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


def _blob(content: bytes) -> str:
    """Git's name of a file's content, which the Hub gives as its ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub(root: Path) -> Iterator[str]:
    """Serve the repositories of `root` on the loopback; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
