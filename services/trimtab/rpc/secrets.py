"""The secrets of one installation: a TOML file, readable by its owner only.

Loaded by every process (`rpc.process`), created by `trimtab up`; in Kubernetes it is a mounted Secret. API keys stand
in it as sha256; `[local] api_key` is the one key in the clear, for the command line on the machine that made it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import tempfile
import tomllib
from typing import Any

from trimtab.core import errors, failpoints, files, ids

API_KEY_PREFIX = "tt-"


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey:
    """sha256: hex, of the key; name: what its owner calls it."""

    sha256: str
    tenant: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Secrets:
    """signing: of completion ids; hash_key: of sessions, subjects and raters; internal_token: between processes."""

    signing: ids.KeyRing = dataclasses.field(repr=False)
    hash_key: bytes = dataclasses.field(repr=False)
    internal_token: str = dataclasses.field(repr=False)
    api_keys: tuple[ApiKey, ...]

    def find(self, api_key: str) -> ApiKey | None:
        """The entry of an API key given in the clear."""
        digest = hashlib.sha256(api_key.encode()).hexdigest()
        return next((entry for entry in self.api_keys if secrets.compare_digest(entry.sha256, digest)), None)


def load(path: pathlib.Path) -> Secrets:
    """The secrets in a file; InvalidField when it is missing, readable by others, or incomplete."""
    document = _document(path)
    try:
        keys = {int(key_id): bytes.fromhex(key) for key_id, key in document["signing"]["keys"].items()}
        return Secrets(
            signing=ids.KeyRing(keys=keys, current=document["signing"]["current"]),
            hash_key=bytes.fromhex(document["hash_key"]),
            internal_token=document["internal_token"],
            api_keys=tuple(ApiKey(**entry) for entry in document.get("api_keys", [])),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise errors.InvalidField(
            "secrets_file", f"{str(path)!r} is incomplete or wrong ({problem!r})", "restore it or create a new one"
        ) from problem


def local_api_key(path: pathlib.Path) -> str:
    """The API key for the command line on this machine; InvalidField when the file keeps none."""
    key = _document(path).get("local", {}).get("api_key", "")
    if not key:
        raise errors.InvalidField("secrets_file", f"{str(path)!r} keeps no local API key", "pass the API key yourself")
    return str(key)


def create(path: pathlib.Path, tenant: str) -> str:
    """Writes new secrets with one API key for the tenant, mode 600, and returns that key. Never overwrites."""
    api_key = API_KEY_PREFIX + secrets.token_urlsafe(32)
    lines = [
        f"hash_key = {_quoted(secrets.token_hex(32))}",
        f"internal_token = {_quoted(secrets.token_urlsafe(32))}",
        "",
        "[signing]",
        "current = 1",
        "",
        "[signing.keys]",
        f"1 = {_quoted(secrets.token_hex(32))}",
        "",
        "[[api_keys]]",
        f"sha256 = {_quoted(hashlib.sha256(api_key.encode()).hexdigest())}",
        f"tenant = {_quoted(tenant)}",
        'name = "local"',
        "",
        "[local]",
        f"api_key = {_quoted(api_key)}",
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines))
        failpoints.reach("secrets.create.before_name")
        files.sync(pathlib.Path(scratch))
        os.link(scratch, path)  # unlike a rename, it refuses a name that is taken
    finally:
        pathlib.Path(scratch).unlink()
    files.sync(path.parent)
    return api_key


def renew_internal_token(path: pathlib.Path) -> None:
    """So that processes of an installation that had the same secrets until now, and these, refuse each other."""
    old = load(path).internal_token
    files.replace(path, path.read_text().replace(_quoted(old), _quoted(secrets.token_urlsafe(32))))
    path.chmod(0o600)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _document(path: pathlib.Path) -> dict[str, Any]:
    try:
        mode = path.stat().st_mode
        document = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise errors.InvalidField(
            "secrets_file", f"{str(path)!r} cannot be read ({problem})", "name the file that holds the secrets"
        ) from problem
    if mode & 0o007:
        raise errors.InvalidField("secrets_file", f"{str(path)!r} is open to every user", f"run `chmod 600 {path}`")
    return document
