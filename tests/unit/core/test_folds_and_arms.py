"""Folds and arms are fixed by the session, shared out as declared, and know nothing of each other."""

import math

from trimtab.core import completions, ids

SESSIONS = [ids.keyed_hash(b"key", "acme", f"session-{number}") for number in range(20_000)]


def _within(count: int, trials: int, share: float) -> bool:
    """Within five standard deviations of a fair draw."""
    return abs(count - trials * share) < 5 * math.sqrt(trials * share * (1 - share))


def test_about_thirty_in_a_hundred_sessions_are_held_out():
    held_out = sum(ids.fold_of(session) in ids.HELD_OUT_FOLDS for session in SESSIONS)
    assert _within(held_out, len(SESSIONS), 0.3)


def test_folds_are_even():
    folds = [ids.fold_of(session) for session in SESSIONS]
    assert set(folds) == set(range(ids.FOLDS))
    assert all(_within(folds.count(fold), len(folds), 0.1) for fold in range(ids.FOLDS))


def test_a_session_keeps_its_fold_for_ever():
    assert [ids.fold_of(bytes([number]) * 16) for number in range(10)] == [5, 2, 2, 9, 7, 3, 1, 2, 8, 6]


def test_a_weight_is_the_share_of_sessions_in_the_candidate_arm():
    for weight in (0.0, 0.1, 0.5, 1.0):
        chosen = sum(ids.arm_of(b"salt", session, weight) is completions.Arm.CANDIDATE for session in SESSIONS)
        assert _within(chosen, len(SESSIONS), weight) or chosen == weight * len(SESSIONS)


def test_raising_the_weight_moves_sessions_one_way_only():
    small = {session for session in SESSIONS if ids.arm_of(b"salt", session, 0.1) is completions.Arm.CANDIDATE}
    large = {session for session in SESSIONS if ids.arm_of(b"salt", session, 0.5) is completions.Arm.CANDIDATE}
    assert small < large


def test_arms_are_independent_of_folds():
    held_out = [session for session in SESSIONS if ids.fold_of(session) in ids.HELD_OUT_FOLDS]
    chosen = sum(ids.arm_of(b"salt", session, 0.5) is completions.Arm.CANDIDATE for session in held_out)
    assert _within(chosen, len(held_out), 0.5)


def test_arms_of_two_releases_are_independent():
    first = [session for session in SESSIONS if ids.arm_of(b"one", session, 0.5) is completions.Arm.CANDIDATE]
    both = sum(ids.arm_of(b"two", session, 0.5) is completions.Arm.CANDIDATE for session in first)
    assert _within(both, len(first), 0.5)


def test_partitions_are_even_and_fixed():
    counted = [ids.partition_of(session, 8) for session in SESSIONS]
    assert all(_within(counted.count(partition), len(counted), 1 / 8) for partition in range(8))
    assert [ids.partition_of(bytes([number]), 8) for number in range(8)] == [4, 7, 1, 0, 0, 2, 0, 0]


def test_a_keyed_hash_tells_nothing_without_the_key():
    assert ids.keyed_hash(b"one", "acme", "s") != ids.keyed_hash(b"two", "acme", "s")
    assert ids.keyed_hash(b"one", "acme", "s") != ids.keyed_hash(b"one", "other", "s")
    assert len(ids.keyed_hash(b"one", "acme", "s")) == 16
