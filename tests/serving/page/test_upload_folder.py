"""The uploads of a killed server are deleted by the next one; those of a living one, and all else, are not."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hardrank.serving.page.upload_folder import make_upload_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

SERVER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from hardrank.serving.page.upload_folder import make_upload_folder
folder = make_upload_folder()
(folder / "upload").write_bytes(b"image")
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextmanager
def server(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A server's process and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_outlives_its_server_only_until_the_next_one_starts(place: Path) -> None:
    with server(place) as (process, folder):
        first = make_upload_folder()
        assert sorted(place.iterdir()) == sorted([folder, first])
        assert (folder / "upload").read_bytes() == b"image"
        assert folder.stat().st_mode & 0o077 == 0
        process.kill()
        process.wait()
        assert (folder / "upload").exists()
        second = make_upload_folder()
        assert sorted(place.iterdir()) == sorted([first, second])


def test_a_server_that_ends_deletes_its_folder(place: Path) -> None:
    with server(place) as (process, folder):
        assert folder.is_dir()
        process.communicate("")
        assert not list(place.iterdir())


def test_nothing_else_is_deleted_and_no_link_is_followed(place: Path, tmp_path: Path) -> None:
    def fill(folder: Path, mode: int = 0o700) -> Path:
        folder.mkdir(mode)
        (folder / ".lock").touch()
        (folder / "upload").touch()
        return folder / "upload"

    elsewhere = fill(tmp_path / "elsewhere")
    (place / "hardrank-page-link").symlink_to(elsewhere.parent)
    target = tmp_path / "target"
    target.touch()
    kept = [fill(place / "other"), fill(place / "hardrank-page-open", 0o755), target, elsewhere]
    unlocked = fill(place / "hardrank-page-unlocked")
    (unlocked.parent / ".lock").unlink()
    linked = fill(place / "hardrank-page-linked")
    (linked.parent / ".lock").unlink()
    (linked.parent / ".lock").symlink_to(target)
    (place / "hardrank-page-file").touch()
    dead = fill(place / "hardrank-page-dead")
    (dead.parent / "link").symlink_to(target)
    make_upload_folder()
    assert not dead.parent.exists()
    assert all(path.exists() for path in (*kept, unlocked, linked, place / "hardrank-page-file"))
