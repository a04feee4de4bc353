"""Atomic files and folders: whatever fails, the former content or the new one is there."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hardrank.models.files import (
    atomic_file,
    atomic_folder,
    atomic_path,
    expand_user,
    replace_folder,
    restore_folder,
    unfinished_folder,
    write_bytes,
    write_json,
)


def write_folder(folder: Path, text: str) -> None:
    """Replace a folder by one of two files."""
    with atomic_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text(text)
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "b.txt").write_text(text)


def content(folder: Path) -> set[str]:
    """The texts in a folder; one text: it is whole."""
    return {path.read_text() for path in folder.rglob("*.txt")}


def failing_rename(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[Path, Path], bool], error: BaseException
) -> list[tuple[str, str]]:
    """Let `Path.rename` raise `error` where `fails(source, target)`; returns the names of all calls."""
    rename, calls = Path.rename, []

    def faulty(self: Path, target: Path) -> Path:
        calls.append((self.name, Path(target).name))
        if fails(self, Path(target)):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", faulty)
    return calls


class TestFolder:
    def test_new_content_replaces_the_former(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "made" / "x", "old")
        write_folder(tmp_path / "made" / "x", "new")
        assert content(tmp_path / "made" / "x") == {"new"}
        assert [path.name for path in (tmp_path / "made").iterdir()] == ["x"]

    @pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
    @pytest.mark.parametrize("step", [1, 2])
    def test_a_failed_rename_keeps_the_former_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
    ) -> None:
        write_folder(tmp_path / "x", "old")
        with monkeypatch.context() as patch:
            calls = failing_rename(patch, lambda *_: len(calls) == step, error)
            with pytest.raises(type(error)):
                write_folder(tmp_path / "x", "new")
        assert content(tmp_path / "x") == {"old"}
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_a_folder_that_cannot_be_renamed_back_is_kept_and_restored_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_folder(tmp_path / "x", "old")
        with monkeypatch.context() as patch:
            failing_rename(patch, lambda _, target: target.name == "x", OSError("gone"))
            with pytest.raises(OSError, match="gone"):
                write_folder(tmp_path / "x", "new")
        assert content(tmp_path / ".x.former") == {"old"}
        assert restore_folder(tmp_path / "x")
        assert content(tmp_path / "x") == {"old"}
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert not restore_folder(tmp_path / "x")

    def test_the_next_write_restores_what_a_killed_process_left(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "x", "old")
        (tmp_path / "x").rename(tmp_path / ".x.former")
        with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "x"):
            raise ValueError("stop")
        assert content(tmp_path / "x") == {"old"}

    def test_an_error_in_the_block_leaves_everything_as_it_was(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "x", "old")
        with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "x") as unfinished:
            (unfinished / "a.txt").rename(unfinished / "b.txt")
        assert content(tmp_path / "x") == {"old"}
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_two_writers_of_one_folder(self, tmp_path: Path) -> None:
        """At all times one of the contents is whole; the last to finish wins."""
        write_folder(tmp_path / "x", "0")

        def write(text: str) -> None:
            for _ in range(20):
                write_folder(tmp_path / "x", text)

        threads = [threading.Thread(target=write, args=(text,)) for text in "01"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert content(tmp_path / "x") in ({"0"}, {"1"})
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_the_folder_behind_a_link_is_replaced(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "disk" / "x", "old")
        (tmp_path / "x").symlink_to(tmp_path / "disk" / "x")
        write_folder(tmp_path / "x", "new")
        assert (tmp_path / "x").is_symlink()
        assert content(tmp_path / "disk" / "x") == {"new"}
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["x"]

    def test_a_file_is_not_replaced_by_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("mine")
        with pytest.raises(NotADirectoryError):
            write_folder(tmp_path / "x", "new")
        assert (tmp_path / "x").read_text() == "mine"

    def test_abandoned_folders_are_removed_and_recent_ones_kept(self, tmp_path: Path) -> None:
        for name, age in ((".x.1-a.unfinished", 2 * 86_400), (".x.2-b.unfinished", 60), (".y.1-a.unfinished", 2e5)):
            (tmp_path / name).mkdir()
            then = (tmp_path / name).stat().st_mtime - age
            os.utime(tmp_path / name, (then, then))
        with unfinished_folder(tmp_path / "x") as unfinished:
            replace_folder(unfinished, tmp_path / "x")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".x.2-b.unfinished", ".y.1-a.unfinished", "x"]


class TestFile:
    def test_an_error_keeps_the_former_file(self, tmp_path: Path) -> None:
        write_json(tmp_path / "x.json", {"ä": 1})
        with pytest.raises(TypeError), atomic_file(tmp_path / "x.json") as stream:
            stream.write("text in a binary file")  # type: ignore[call-overload]
        assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]

    def test_a_failed_replacement_keeps_the_former_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_bytes(tmp_path / "x", b"old")

        def fail(self: Path, target: Path) -> Path:
            raise OSError("no space")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            with pytest.raises(OSError, match="no space"):
                write_bytes(tmp_path / "x", b"new")
        assert (tmp_path / "x").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]

    def test_writers_in_several_threads_do_not_share_a_temporary_file(self, tmp_path: Path) -> None:
        with atomic_path(tmp_path / "x") as first, atomic_path(tmp_path / "x") as second:
            assert first != second
            first.write_bytes(b"1")
            second.write_bytes(b"2")
        assert (tmp_path / "x").read_bytes() == b"1"

    def test_permissions_are_kept(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "keys", b"old")
        (tmp_path / "keys").chmod(0o600)
        write_bytes(tmp_path / "keys", b"new")
        assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


def test_expand_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/x") == Path("/home/me/x")
    assert expand_user("~no-such-user/x") == Path("~no-such-user/x")
    assert expand_user("a/~/x") == Path("a/~/x")
