"""Ids: the signed completion id, keyed hashes, folds, arms.

A completion id is a token any replica verifies without state:

    "chatcmpl-" + base64url(version 1 | key id 1 | flags 1 | UUIDv7 16 | session hash 16 | release 8 | MAC 12)

MAC = HMAC-SHA256(key, everything before | tenant), cut to 12 bytes. flags: bit 0 randomised, bit 1 candidate arm,
bit 2 imported, bit 3 not kept. The tenant is only in the MAC, so a foreign tenant's key fails like a forged one would.
"""

import base64
import binascii
import dataclasses
import functools
import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Mapping

from trimtab.core import completions, errors

PREFIX = "chatcmpl-"
_VERSION = 1
_MAC_BYTES = 12
_BODY_BYTES = 3 + 16 + 16 + 8
FOLDS = 10
# Never train anything that decides; only the evaluation reward model trains here.
HELD_OUT_FOLDS = frozenset({0, 1, 2})


@dataclasses.dataclass(frozen=True, slots=True)
class CompletionToken:
    """What a completion id says. release: first 8 bytes of sha256 of the release id; kept: with its text."""

    uuid: uuid.UUID
    session_hash: bytes
    release: bytes
    arm: completions.Arm
    randomised: bool
    imported: bool = False
    kept: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRing:
    """Signing keys by key id (0-255); new ids are signed with `current`, old ones verify while their key is here."""

    keys: Mapping[int, bytes]
    current: int

    def __post_init__(self) -> None:
        if self.current not in self.keys:
            raise ValueError(f"the current signing key {self.current} is not among the keys")


def uuid7() -> uuid.UUID:
    """A time-ordered UUID, version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def content_uuid(*parts: str) -> uuid.UUID:
    """A UUID, version 8, that is the same for the same parts: what makes an import idempotent."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()[:16]
    value = int.from_bytes(digest, "big")
    value = value & ~(0xF << 76) | 0x8 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def release_tag(release_id: str) -> bytes:
    """The 8 bytes of a release that fit into a completion id."""
    return hashlib.sha256(release_id.encode()).digest()[:8]


def keyed_hash(key: bytes, *parts: str) -> bytes:
    """16 bytes of HMAC-SHA256: what sessions, subjects and raters are called in records."""
    return _hmac(key, "\x1f".join(parts).encode())[:16]


def _mac(key: bytes, body: bytes, tenant: str) -> bytes:
    return _hmac(key, body + tenant.encode())[:_MAC_BYTES]


def _hmac(key: bytes, message: bytes) -> bytes:
    # not `hmac.digest`, which lets go of the interpreter lock and waits long to get it back beside a busy thread
    keyed = _keyed(key).copy()
    keyed.update(message)
    return keyed.digest()


@functools.lru_cache(maxsize=64)
def _keyed(key: bytes) -> "hmac.HMAC":
    """Ready for messages: preparing a key takes longer than a short message."""
    return hmac.new(key, digestmod="sha256")


def mint(token: CompletionToken, tenant: str, ring: KeyRing) -> str:
    """The completion id for a token."""
    candidate = token.arm is completions.Arm.CANDIDATE
    flags = token.randomised | candidate << 1 | token.imported << 2 | (not token.kept) << 3
    head = bytes((_VERSION, ring.current, flags))
    body = head + token.uuid.bytes + token.session_hash + token.release
    if len(body) != _BODY_BYTES:
        raise ValueError("session hash must be 16 bytes and release 8")
    raw = body + _mac(ring.keys[ring.current], body, tenant)
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def verify(completion_id: str, tenant: str, ring: KeyRing) -> CompletionToken:
    """What a completion id says, when it is genuine and the tenant's; ForgedCompletionId otherwise."""
    raw = _decode(completion_id)
    body, mac = raw[:_BODY_BYTES], raw[_BODY_BYTES:]
    key = ring.keys.get(body[1])
    if key is None or not hmac.compare_digest(mac, _mac(key, body, tenant)):
        raise errors.ForgedCompletionId(completion_id)
    flags = body[2]
    return CompletionToken(
        uuid=uuid.UUID(bytes=body[3:19]),
        session_hash=body[19:35],
        release=body[35:43],
        arm=completions.Arm.CANDIDATE if flags & 2 else completions.Arm.STABLE,
        randomised=bool(flags & 1),
        imported=bool(flags & 4),
        kept=not flags & 8,
    )


def uuid_of(completion_id: str) -> uuid.UUID:
    """The UUID inside a completion id, or a bare UUID itself; nothing is verified. ForgedCompletionId when neither."""
    if completion_id.startswith(PREFIX):
        return uuid.UUID(bytes=_decode(completion_id)[3:19])
    try:
        return uuid.UUID(completion_id)
    except ValueError as problem:
        raise errors.ForgedCompletionId(completion_id) from problem


def _decode(completion_id: str) -> bytes:
    text = completion_id.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as problem:
        raise errors.ForgedCompletionId(completion_id) from problem
    well_formed = completion_id.startswith(PREFIX) and len(raw) == _BODY_BYTES + _MAC_BYTES and raw[0] == _VERSION
    # base64 ignores the spare bits of its last character: only the canonical spelling is an id
    if not well_formed or PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != completion_id:
        raise errors.ForgedCompletionId(completion_id)
    return raw


def unit_interval(*parts: bytes) -> float:
    """A number in [0, 1) that is uniform over its parts' hashes."""
    return int.from_bytes(hashlib.sha256(b"\x1f".join(parts)).digest()[:8], "big") / 2**64


def arm_of(salt: bytes, session_hash: bytes, candidate_weight: float) -> completions.Arm:
    """The arm of a session: the same for every request of it while salt and weight stand."""
    chosen = unit_interval(salt, session_hash) < candidate_weight
    return completions.Arm.CANDIDATE if chosen else completions.Arm.STABLE


def fold_of(session_hash: bytes) -> int:
    """The fold, 0 to 9, that a session (an import: its prompt's hash) belongs to for ever."""
    return int(unit_interval(b"fold", session_hash) * FOLDS)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition a key goes to; partition counts never change."""
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % partitions
