"""Keys, roles, rates, and the command that makes keys."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from hardrank.serving import keys
from hardrank.serving.api.auth import (
    Caller,
    ForbiddenError,
    KeyEntry,
    Keyring,
    RateLimit,
    RateLimitedError,
    Role,
    SecurityError,
    UnauthenticatedError,
    entry_of,
    keys_of_environment,
    new_key,
    read_keys,
    require,
    write_keys,
)


def test_a_file_of_keys_keeps_hashes_alone_for_its_owner_alone(tmp_path: Path) -> None:
    path, key = tmp_path / "keys.json", new_key()
    write_keys(path, [entry_of("anna", Role.WRITE, key)])
    assert key not in path.read_text(encoding="utf-8")
    assert read_keys(path) == (KeyEntry(name="anna", role="write", sha256=hashlib.sha256(key.encode()).hexdigest()),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"keys": 3}',
        '{"schema_version": "hardrank.keys/9", "keys": []}',
        '{"keys": [{"name": "a", "role": "admin", "sha256": "' + "0" * 64 + '"}]}',
        '{"keys": [{"name": "a", "role": "read", "sha256": "secret"}]}',
        json.dumps({"keys": [{"name": "a", "role": "read", "sha256": digit * 64} for digit in "01"]}),
        "\ud800",
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(SecurityError, match=r"keys\.json"):
        read_keys(path)


def test_a_missing_file_tells_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match=r"serving/keys\.py add"):
        read_keys(tmp_path / "nothing.json")


def test_keys_of_the_environment() -> None:
    one, two, three = new_key(), new_key(), new_key()
    found = keys_of_environment({"HARDRANK_READ_KEYS": f"{one}, {two},", "HARDRANK_WRITE_KEYS": three})
    ring = Keyring(found, anonymous=Role.NOTHING)
    roles = [ring.caller(key, "192.0.2.1").role for key in (one, two, three)]
    assert roles == [Role.READ, Role.READ, Role.WRITE]
    assert keys_of_environment({}) == ()
    with pytest.raises(SecurityError, match="at least 16"):
        keys_of_environment({"HARDRANK_READ_KEYS": "secret"})


def test_callers_and_what_they_may_do() -> None:
    key = new_key()
    ring = Keyring([entry_of("anna", Role.READ, key)], anonymous=Role.NOTHING)
    anna, nobody = ring.caller(key, "192.0.2.1"), ring.caller(None, "192.0.2.1")
    assert anna == Caller(name="key anna", role=Role.READ)
    assert nobody == Caller(name="address 192.0.2.1", role=Role.NOTHING)
    require(anna, Role.READ)
    with pytest.raises(ForbiddenError, match="write"):
        require(anna, Role.WRITE)
    with pytest.raises(UnauthenticatedError, match="read"):
        require(nobody, Role.READ)
    for wrong in ("", "x", key[:-1], key + "x", "\udcff", "ä"):
        with pytest.raises(UnauthenticatedError):
            ring.caller(wrong, "192.0.2.1")


def test_addresses_of_one_household_are_one_caller() -> None:
    ring = Keyring()
    names = [
        ring.caller(None, address).name
        for address in ("2001:db8:0:1::5", "2001:db8:0:1:ffff::9", "2001:db8:0:2::5", "::ffff:192.0.2.7", "192.0.2.7")
    ]
    assert names[0] == names[1] != names[2]
    assert names[3] == names[4] == "address 192.0.2.7"
    assert ring.caller(None, "testclient").name == "address testclient"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_refills_and_overflows() -> None:
    clock = Clock()
    limit = RateLimit(rate=2.0, burst=3, clock=clock)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(RateLimitedError) as caught:
        limit.take("a")
    assert caught.value.retry_after_s == 1
    limit.take("b")  # somebody else's bucket
    clock.now = 0.5
    limit.take("a")  # one token came back
    with pytest.raises(RateLimitedError):
        limit.take("a")
    clock.now = 1000.0
    limit.take("a", 3)  # no more than the burst was saved up
    with pytest.raises(RateLimitedError) as caught:
        limit.take("a", 3)
    assert caught.value.retry_after_s == 2
    with pytest.raises(RateLimitedError, match="fewer"):
        limit.take("c", 4)


def test_the_promised_time_is_enough() -> None:
    clock = Clock()
    limit = RateLimit(rate=0.3, burst=5, clock=clock)
    limit.take("a", 5)
    for tokens in (1, 2, 5):
        with pytest.raises(RateLimitedError) as caught:
            limit.take("a", tokens)
        clock.now += caught.value.retry_after_s
        limit.take("a", tokens)


def test_no_limit_without_a_rate() -> None:
    limit = RateLimit(rate=0.0, burst=1)
    for _ in range(1000):
        limit.take("a", 50)


def test_the_command_makes_lists_and_removes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "keys.json")
    assert keys.main(["add", path, "anna"]) == 0
    key = capsys.readouterr().out.split()[0]
    assert keys.main(["add", path, "bert", "--role", "write"]) == 0
    other = capsys.readouterr().out.split()[0]
    ring = Keyring(read_keys(Path(path)))
    assert ring.caller(key, "").role is Role.READ
    assert ring.caller(other, "").role is Role.WRITE
    assert keys.main(["list", path]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["anna", "read"], ["bert", "write"]]
    assert keys.main(["add", path, "anna"]) == 2
    assert "anna" in capsys.readouterr().err
    assert keys.main(["remove", path, "anna"]) == 0
    assert keys.main(["remove", path, "anna"]) == 2
    assert [entry.name for entry in read_keys(Path(path))] == ["bert"]
    assert keys.main(["add", path, "x" * 65]) == 2
