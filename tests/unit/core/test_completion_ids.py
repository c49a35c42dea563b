"""A completion id cannot be made, changed or borrowed."""

import base64
import time

import hypothesis
import pytest
from hypothesis import strategies

from trimtab.core import completions, errors, ids

RING = ids.KeyRing(keys={1: b"k" * 32}, current=1)
TOKEN = ids.CompletionToken(
    uuid=ids.uuid7(),
    session_hash=bytes(range(16)),
    release=ids.release_tag("rel-1"),
    arm=completions.Arm.CANDIDATE,
    randomised=True,
)


def _raw(completion_id: str) -> bytes:
    body = completion_id.removeprefix(ids.PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def _spelled(raw: bytes) -> str:
    return ids.PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("arm", list(completions.Arm))
@pytest.mark.parametrize("randomised", [True, False])
@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_an_id_says_what_it_was_made_of(arm, randomised, imported, kept):
    token = ids.CompletionToken(TOKEN.uuid, TOKEN.session_hash, TOKEN.release, arm, randomised, imported, kept)
    assert ids.verify(ids.mint(token, "acme", RING), "acme", RING) == token


def test_every_flipped_bit_makes_a_forgery():
    raw = _raw(ids.mint(TOKEN, "acme", RING))
    for position in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(errors.ForgedCompletionId):
            ids.verify(_spelled(bytes(flipped)), "acme", RING)


def test_every_other_letter_makes_a_forgery():
    genuine = ids.mint(TOKEN, "acme", RING)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for letter in alphabet:
        changed = genuine[:-1] + letter
        if changed == genuine:
            continue
        with pytest.raises(errors.ForgedCompletionId):
            ids.verify(changed, "acme", RING)


def test_another_spelling_of_the_same_bytes_is_a_forgery():
    genuine = ids.mint(TOKEN, "acme", RING)
    padding = "=" * (-len(genuine.removeprefix(ids.PREFIX)) % 4)
    spellings = [genuine + padding, genuine + "=", " " + genuine, genuine + "\n", genuine.replace("-", "+", 2)]
    spellings.append(genuine.removeprefix(ids.PREFIX))
    for spelling in spellings:
        if spelling == genuine:
            continue
        with pytest.raises(errors.ForgedCompletionId):
            ids.verify(spelling, "acme", RING)


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(
    strategies.one_of(strategies.text(max_size=120), strategies.text(max_size=90).map(ids.PREFIX.__add__))
)
def test_no_text_is_an_id_by_chance(made_up):
    with pytest.raises(errors.ForgedCompletionId):
        ids.verify(made_up, "acme", RING)


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(strategies.binary(min_size=55, max_size=55))
def test_no_bytes_of_the_right_length_are_an_id_by_chance(raw):
    with pytest.raises(errors.ForgedCompletionId):
        ids.verify(_spelled(bytes((1, 1)) + raw[2:]), "acme", RING)


@pytest.mark.parametrize("tenant", ["other", "", "acm", "acmee", "ACME"])
def test_a_foreign_tenants_id_fails_like_a_forged_one(tenant):
    with pytest.raises(errors.ForgedCompletionId):
        ids.verify(ids.mint(TOKEN, "acme", RING), tenant, RING)


def test_a_rotated_key_signs_new_ids_and_old_ids_verify_while_their_key_is_kept():
    old = ids.mint(TOKEN, "acme", RING)
    rotated = ids.KeyRing(keys={1: RING.keys[1], 2: b"n" * 32}, current=2)
    new = ids.mint(TOKEN, "acme", rotated)
    assert new != old
    assert ids.verify(old, "acme", rotated) == ids.verify(new, "acme", rotated) == TOKEN
    retired = ids.KeyRing(keys={2: b"n" * 32}, current=2)
    assert ids.verify(new, "acme", retired) == TOKEN
    with pytest.raises(errors.ForgedCompletionId):
        ids.verify(old, "acme", retired)


def test_a_key_id_does_not_let_another_key_sign():
    stranger = ids.KeyRing(keys={1: b"x" * 32}, current=1)
    with pytest.raises(errors.ForgedCompletionId):
        ids.verify(ids.mint(TOKEN, "acme", stranger), "acme", RING)


def test_a_ring_without_its_current_key_is_refused():
    with pytest.raises(ValueError, match="current signing key 3"):
        ids.KeyRing(keys={1: b"k"}, current=3)


def test_a_session_hash_of_the_wrong_length_is_not_signed():
    short = ids.CompletionToken(TOKEN.uuid, b"short", TOKEN.release, TOKEN.arm, True)
    with pytest.raises(ValueError, match="16 bytes"):
        ids.mint(short, "acme", RING)


def test_the_error_does_not_repeat_an_endless_id():
    with pytest.raises(errors.ForgedCompletionId) as caught:
        ids.verify("x" * 1_000_000, "acme", RING)
    assert len(str(caught.value)) < 300


def test_uuids_are_version_7_and_rise_with_time():
    before = time.time_ns() // 1_000_000
    made = [ids.uuid7() for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert {(value.version, value.variant) for value in made} == {(7, "specified in RFC 4122")}
    assert all(before <= value.int >> 80 <= after for value in made)
    assert len(set(made)) == 100


def test_a_content_uuid_is_the_same_for_the_same_parts_only():
    assert ids.content_uuid("hh-rlhf", "7") == ids.content_uuid("hh-rlhf", "7")
    assert ids.content_uuid("hh-rlhf", "7") != ids.content_uuid("hh-rlhf7", "")
    assert ids.content_uuid("hh-rlhf", "7").version == 8
