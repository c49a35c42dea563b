"""Sessions are told by segment, and no segment moves a verdict."""

import datetime

from trimtab.core import completions, ledger, lines, releases
from trimtab.rollout import evidence, segments
from trimtab.wire import codec
from trimtabapi.release.v1 import release_pb2

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE


def session(
    segment: str, arm: completions.Arm = STABLE, outcome: float | None = 1.0, *, mature: bool = True
) -> ledger.SessionOutcome:
    return ledger.SessionOutcome(arm, 0.5, NOW, int(outcome is not None), mature, outcome, segment=segment)


def test_sessions_votes_and_approval_by_segment_and_arm() -> None:
    seen = [
        session("web"),
        session("web", outcome=0.0),
        session("web", CANDIDATE, 0.5),
        session("web", CANDIDATE, None),
        session("web", CANDIDATE, mature=False),
        session("mobile", CANDIDATE),
        session(""),
        session("", CANDIDATE),
    ]
    web, none, mobile = segments.reported(seen)
    assert (web.label, none.label, mobile.label) == ("web", "(none named)", "mobile")
    assert (web.stable, web.candidate) == (releases.SegmentArm(2, 2, 0.5), releases.SegmentArm(3, 1, 0.5))
    assert (mobile.stable, mobile.candidate) == (releases.SegmentArm(), releases.SegmentArm(1, 1, 1.0))


def test_without_any_segment_there_is_nothing_to_tell() -> None:
    assert segments.reported([session(""), session("", CANDIDATE)]) == ()
    assert segments.reported([]) == ()


def test_the_twenty_largest_have_a_row_and_the_others_share_one() -> None:
    seen = [session(f"s{number:02}") for number in range(26) for _ in range(30 - number)]
    *largest, others = segments.reported(seen)
    assert [row.segment for row in largest] == [f"s{number:02}" for number in range(20)]
    assert (others.label, others.others, others.stable.sessions) == ("(6 others)", 6, 10 + 9 + 8 + 7 + 6 + 5)
    assert segments.reported(seen) == segments.reported(reversed(seen))


def test_a_verdict_is_the_same_whatever_the_segments() -> None:
    arms = [CANDIDATE if number % 2 else STABLE for number in range(400)]
    plain = [session("", arm, float(arm is CANDIDATE)) for arm in arms]
    named = [session(f"s{number % 50}", arm, float(arm is CANDIDATE)) for number, arm in enumerate(arms)]
    one, other = (
        evidence.judge(ledger.EvidenceResponse(tuple(seen)), lines.ReleaseConfig()) for seen in (plain, named)
    )
    assert (one.difference, one.lower, one.upper, one.verdict) == (
        other.difference,
        other.lower,
        other.upper,
        other.verdict,
    )
    assert (len(one.segments), len(other.segments)) == (0, 21)


def test_the_largest_table_keeps_a_record_small() -> None:
    seen = [session(f"{number:064}", arm) for number in range(100) for arm in (STABLE, CANDIDATE)]
    found = releases.Evidence(segments=segments.reported(seen))
    assert codec.to_proto(found, release_pb2.Evidence).ByteSize() < 3000
