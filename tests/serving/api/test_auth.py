"""API keys: the key file, the environment, roles and callers."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from hardrank.serving.api.auth import (
    ApiKeyError,
    Caller,
    ForbiddenError,
    KeyEntry,
    Keyring,
    KeyRole,
    UnauthenticatedError,
    key_entry,
    keys_of_environment,
    new_key,
    read_keys,
    require,
    write_keys,
)


def test_the_key_file_has_only_hashes_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path, key = tmp_path / "keys.json", new_key()
    write_keys(path, [key_entry("anna", KeyRole.WRITE, key)])
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
def test_errors_name_an_invalid_key_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ApiKeyError, match=r"keys\.json"):
        read_keys(path)


def test_the_error_for_a_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ApiKeyError, match=r"keys(\.py)? add"):
        read_keys(tmp_path / "nothing.json")


def test_keys_from_the_environment() -> None:
    one, two, three = new_key(), new_key(), new_key()
    found = keys_of_environment({"HARDRANK_READ_KEYS": f"{one}, {two},", "HARDRANK_WRITE_KEYS": three})
    ring = Keyring(found, anonymous=KeyRole.NOTHING)
    roles = [ring.caller(key, "192.0.2.1").role for key in (one, two, three)]
    assert roles == [KeyRole.READ, KeyRole.READ, KeyRole.WRITE]
    assert keys_of_environment({}) == ()
    with pytest.raises(ApiKeyError, match="at least 16"):
        keys_of_environment({"HARDRANK_READ_KEYS": "secret"})


def test_callers_have_the_role_of_their_key() -> None:
    key = new_key()
    ring = Keyring([key_entry("anna", KeyRole.READ, key)], anonymous=KeyRole.NOTHING)
    anna, nobody = ring.caller(key, "192.0.2.1"), ring.caller(None, "192.0.2.1")
    assert anna == Caller(name="key anna", role=KeyRole.READ)
    assert nobody == Caller(name="address 192.0.2.1", role=KeyRole.NOTHING)
    require(anna, KeyRole.READ)
    with pytest.raises(ForbiddenError, match="write"):
        require(anna, KeyRole.WRITE)
    with pytest.raises(UnauthenticatedError, match="read"):
        require(nobody, KeyRole.READ)
    for wrong in ("", "x", key[:-1], key + "x", "\udcff", "ä"):
        with pytest.raises(UnauthenticatedError):
            ring.caller(wrong, "192.0.2.1")


def test_the_key_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, (anna, bert, fixed) = tmp_path / "keys.json", (new_key() for _ in range(3))
    entries = {name: key_entry(name, KeyRole.READ, key) for name, key in (("anna", anna), ("bert", bert))}
    write_keys(path, [entries["anna"]])
    ring = Keyring([key_entry("fixed", KeyRole.WRITE, fixed)], file=path, anonymous=KeyRole.NOTHING)
    changes: list[int] = []
    ring.on_change(lambda: changes.append(1))
    assert ring.find(anna)
    write_keys(path, entries.values())
    assert ring.find(bert)
    assert ring.find(anna)
    write_keys(path, [entries["bert"]])
    with pytest.raises(UnauthenticatedError):
        ring.caller(anna, "192.0.2.1")
    assert ring.find(fixed)
    assert len(changes) == 2
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        assert ring.find(bert)
        assert ring.find(bert)
    assert len(caplog.records) == 2
    write_keys(path, [])
    assert ring.find(bert) is None
    assert ring.caller(None, "192.0.2.1").role is KeyRole.NOTHING


def test_addresses_of_one_ipv6_network_are_one_caller() -> None:
    ring = Keyring()
    names = [
        ring.caller(None, address).name
        for address in ("2001:db8:0:1::5", "2001:db8:0:1:ffff::9", "2001:db8:0:2::5", "::ffff:192.0.2.7", "192.0.2.7")
    ]
    assert names[0] == names[1] != names[2]
    assert names[3] == names[4] == "address 192.0.2.7"
    assert ring.caller(None, "testclient").name == "address testclient"
