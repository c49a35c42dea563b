"""A release's sessions by the segment that their app named: reported, never tested. Pure.

Called by `rollout.evidence` at every look. Among many segments some differ by chance: no verdict reads these figures.
"""

import collections
import math
from collections.abc import Iterable, Sequence

from trimtab.core import completions, ledger, releases

# Segments with a row of their own, the largest; the others share one, so that a record stays small.
MOST = 20


def reported(sessions: Iterable[ledger.SessionOutcome]) -> tuple[releases.SegmentEvidence, ...]:
    """Of these sessions, the largest segment first and the rest last; none when no session named any."""
    by_segment: dict[str, list[ledger.SessionOutcome]] = collections.defaultdict(list)
    for session in sessions:
        by_segment[session.segment].append(session)
    if not any(by_segment):
        return ()
    ordered = sorted(by_segment.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [_row(members, segment=name) for name, members in ordered[:MOST]]
    rest = ordered[MOST:]
    if rest:
        rows.append(_row([session for _, members in rest for session in members], others=len(rest)))
    return tuple(rows)


def _row(members: Sequence[ledger.SessionOutcome], *, segment: str = "", others: int = 0) -> releases.SegmentEvidence:
    stable, candidate = (_arm([session for session in members if session.arm is arm]) for arm in completions.Arm)
    return releases.SegmentEvidence(segment=segment, stable=stable, candidate=candidate, others=others)


def _arm(members: Sequence[ledger.SessionOutcome]) -> releases.SegmentArm:
    outcomes = [session.outcome for session in members if session.mature and session.outcome is not None]
    approval = math.fsum(outcomes) / len(outcomes) if outcomes else 0.0
    return releases.SegmentArm(len(members), len(outcomes), approval)
