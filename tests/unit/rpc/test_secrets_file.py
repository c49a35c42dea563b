"""Secrets are created once, readable by their owner, and never shown."""

import pytest

from trimtab.core import errors
from trimtab.rpc import secrets


def test_a_new_file_is_the_owners_alone_and_holds_the_key_it_returned(tmp_path):
    path = tmp_path / "state" / "secrets.toml"
    api_key = secrets.create(path, 'ac"me\\ü')
    known = secrets.load(path)
    assert path.stat().st_mode & 0o777 == 0o600
    entry = known.find(api_key)
    assert entry is not None
    assert (entry.tenant, entry.name) == ('ac"me\\ü', "local")
    assert secrets.local_api_key(path) == api_key
    assert (len(known.hash_key), len(known.signing.keys[1])) == (32, 32)


def test_an_unknown_key_is_nobodys(tmp_path):
    path = tmp_path / "secrets.toml"
    api_key = secrets.create(path, "acme")
    assert secrets.load(path).find(api_key + "x") is None
    assert secrets.load(path).find("") is None


def test_it_is_never_overwritten(tmp_path):
    path = tmp_path / "secrets.toml"
    secrets.create(path, "acme")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        secrets.create(path, "acme")
    assert path.read_bytes() == before


def test_no_secret_is_in_its_text(tmp_path):
    path = tmp_path / "secrets.toml"
    secrets.create(path, "acme")
    known = secrets.load(path)
    shown = repr(known)
    assert known.internal_token not in shown
    assert repr(known.signing.keys[1]) not in shown
    assert repr(known.hash_key) not in shown


def test_a_file_open_to_every_user_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "secrets.toml"
    secrets.create(path, "acme")
    path.chmod(0o644)
    with pytest.raises(errors.InvalidField, match="chmod 600"):
        secrets.load(path)


@pytest.mark.parametrize("content", ["", "hash_key = 1", "[signing", 'hash_key = "zz"\n[signing.keys]\n1 = "00"'])
def test_an_incomplete_file_is_refused(tmp_path, content):
    path = tmp_path / "secrets.toml"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(errors.InvalidField, match="secrets_file"):
        secrets.load(path)
    with pytest.raises(errors.InvalidField, match="secrets_file"):
        secrets.local_api_key(path)
