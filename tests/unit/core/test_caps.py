"""A rater's votes count in so many sessions, the first by exposure, and so do those from one network."""

import math
from collections.abc import Sequence

import pytest

from trimtab.core import caps


def counted(
    sessions: Sequence[Sequence[caps.Vote]], rater_sessions: float = math.inf, network_sessions: float = math.inf
) -> list[list[float]]:
    limits = caps.Caps(rater_sessions, network_sessions)
    return [limits.counted(votes) for votes in sessions]


def test_a_rater_s_votes_count_in_the_first_sessions() -> None:
    ann, bob = caps.Vote(1.0, "ann"), caps.Vote(0.0, "bob")
    assert counted([[ann], [bob, ann], [ann], [ann, bob], [bob]], 2) == [[1.0], [0.0, 1.0], [], [0.0], []]


def test_within_a_session_all_votes_of_a_rater_count_alike() -> None:
    several = [caps.Vote(outcome, "ann") for outcome in (0.0, 0.25, 1.0)]
    assert counted([several, several, several], 2) == [[0.0, 0.25, 1.0]] * 2 + [[]]


def test_a_network_has_a_limit_of_its_own_whoever_votes_from_it() -> None:
    people = [[caps.Vote(1.0, f"rater {number}", "net")] for number in range(4)]
    assert counted(people, 1, 3) == [[1.0]] * 3 + [[]]
    # A session with two people of one network is one of the network's.
    two = [[caps.Vote(1.0, "a", "net"), caps.Vote(0.0, "b", "net")] for _ in range(3)]
    assert counted(two, math.inf, 2) == [[1.0, 0.0]] * 2 + [[]]


def test_what_one_limit_holds_back_uses_up_nothing_of_the_other() -> None:
    ann = caps.Vote(1.0, "ann", "net")
    assert counted([[ann], [ann], [ann], [caps.Vote(0.0, "bob", "net")]], 1, 2) == [[1.0], [], [], [0.0]]


def test_who_is_not_named_has_no_limit() -> None:
    assert counted([[caps.Vote(1.0)]] * 9, 1, 1) == [[1.0]] * 9
    # A rater and a network of the same name are two.
    assert counted([[caps.Vote(1.0, "x")], [caps.Vote(0.0, "", "x")]], 1, 1) == [[1.0], [0.0]]


@pytest.mark.parametrize("limit", [0, 0.0, math.inf, 10**30])
def test_no_limit(limit: float) -> None:
    assert counted([[caps.Vote(1.0, "ann", "net")]] * 99, limit, limit) == [[1.0]] * 99


def test_a_session_without_votes_is_nobody_s() -> None:
    assert counted([[], [caps.Vote(1.0, "ann")], [], [caps.Vote(1.0, "ann")]], 1) == [[], [1.0], [], []]
