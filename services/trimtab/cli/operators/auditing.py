"""`trimtab rollout audit`: computes verdicts from the log again, and says whether they are the recorded ones.

Nothing of the running platform is asked: records come from topic `rollouts`, completions, feedback and scores from
theirs, up to the offsets that a record names. They are folded by the ledger's code in a scratch folder and judged by
the release's own terms.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

from trimtab.bus import letters, port
from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import inspecting
from trimtab.core import errors, ledger, lines, releases
from trimtab.ledger import consumer, replaying
from trimtab.ledger import evidence as ledger_evidence
from trimtab.rollout import book, evidence

_ARM_FIGURES = ("sessions", "mature", "voted", "approval", "completions")
_GUARDED = ("stable", "candidate", "upper", "standing")
_FIGURES = ("difference", "lower", "upper", "alpha", "capped", "verdict", "reason")


@dataclasses.dataclass(frozen=True, slots=True)
class Audited:
    """A release, the evidence it was decided on, and the same computed again."""

    release: releases.Release
    recorded: releases.Evidence
    computed: releases.Evidence

    @property
    def equal(self) -> bool:
        return self.recorded == self.computed


def audit(state: pathlib.Path, beginning: str, as_json: bool) -> int:
    """One release, or all that have evidence; exit code 0 when every figure is equal, to the bit."""
    layout = platform.Layout(state)
    screen = show.Screen(as_json)
    with contextlib.closing(layout.open_log()) as log:
        wanted = chosen(log, beginning)
        with screen.step("computing what the log gives") as step:
            found = audited(log, wanted, lambda read: step.say(f"{read:,} records"))
    if as_json:
        screen.json([{**inspecting.plain(one), "equal": one.equal} for one in found])
    else:
        _show(screen, found)
    return 0 if all(one.equal for one in found) else 1


def audited(
    log: port.EventLog, wanted: Sequence[releases.Release], tell: Callable[[int], None] = lambda read: None
) -> list[Audited]:
    """Oldest first. WrongState for a release without evidence, or one whose records the log has lost."""
    found = []
    for one in replayed(log, wanted, tell):
        assert one.release.evidence is not None
        computed = evidence.judge(one.seen, one.terms, _stage(one.release))
        found.append(Audited(one.release, one.release.evidence, computed))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Replayed:
    """A release with the sessions its evidence was computed from."""

    release: releases.Release
    terms: lines.ReleaseConfig
    seen: ledger.EvidenceResponse


def replayed(
    log: port.EventLog, wanted: Sequence[releases.Release], tell: Callable[[int], None] = lambda read: None
) -> list[Replayed]:
    """Oldest first. WrongState as `audited` has it."""
    judged = []
    for release in wanted:
        if release.evidence is None:
            raise errors.WrongState(f"Release {release.id} is {release.state.value} and has no evidence.")
        if release.evidence.judged_at is None or release.terms is None:
            raise errors.WrongState(f"Release {release.id} was judged by a version that did not record by which terms.")
        judged.append((release.evidence.judged_at, release, release.terms, release.evidence.consumed))
    found = []
    with contextlib.closing(letters.Letters(log)) as known:
        known.refresh()
    refused = {place for place, by in known.entries if by == consumer.NAME}
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as folder:
        store = replaying.scratch(pathlib.Path(folder))
        try:
            # One reading of the log serves all: each goes on where the one before it was judged.
            for judged_at, release, terms, consumed in sorted(judged, key=lambda one: (one[0], one[1].id)):
                begun = min(one.created_at for one in wanted)
                replaying.replay(log, store, consumed, begun, refused=refused, tell=tell)
                asked = ledger.evidence_request(release, terms)
                found.append(Replayed(release, terms, ledger_evidence.evidence(store, asked, judged_at)))
        finally:
            store.close()
    return found


def _stage(release: releases.Release) -> releases.ReleaseState:
    """The stage of a release's last evidence: what it never left for the evidence stage ended in the safety stage."""
    return releases.ReleaseState.SAFETY if release.evidence_started_at is None else releases.ReleaseState.EVIDENCE


def chosen(log: port.EventLog, beginning: str) -> list[releases.Release]:
    """The one release whose id begins so; without a beginning all that have evidence, oldest first."""
    records = book.Book(log)
    try:
        records.refresh()
        known = [one for line in records.lines.values() for one in line.by_id.values()]
    finally:
        records.close()
    if not beginning:
        judged = [one for one in known if one.evidence is not None]
        if not judged:
            raise errors.NotFound("release with evidence", "any")
        return sorted(judged, key=lambda one: (one.created_at, one.id))
    matching = [one for one in known if one.id.startswith(beginning)]
    if not matching:
        raise errors.NotFound("release", beginning)
    if len(matching) > 1:
        raise errors.InvalidField("RELEASE", f"{beginning!r} begins {len(matching)} ids", "give more of it")
    return matching


def _show(screen: show.Screen, found: Sequence[Audited]) -> None:
    for one in found:
        release = one.release
        screen.say("")
        screen.say(
            show.literal(
                f"release {release.id} on line {release.context.line}: policy {release.candidate_id[: show.SHORT]}, "
                f"{release.state.value.replace('_', ' ')}"
            )
        )
        screen.table(
            ("figure", "recorded", "from the log", ""),
            [(name, then, now, "" if then == now else "differs") for name, then, now in _figures(one)],
        )
    screen.say("")
    equal = sum(one.equal for one in found)
    if equal == len(found):
        screen.say(f"[green]equal[/]  {equal} of {equal} recorded verdicts follow from the log, to the last bit")
    else:
        screen.say(
            f"[red]different[/]  {len(found) - equal} of {len(found)} records hold other figures than the log gives"
        )


def _figures(found: Audited) -> Iterator[tuple[str, str, str]]:
    """Name, recorded, computed. Numbers with all their digits."""
    for then, now in zip(found.recorded.arms, found.computed.arms, strict=False):
        for name in _ARM_FIGURES:
            yield f"{then.arm.value} {name}", str(getattr(then, name)), str(getattr(now, name))
    for one, again in zip(found.recorded.guardrails, found.computed.guardrails, strict=False):
        for name in _GUARDED:
            yield f"{one.name} {name}", str(getattr(one, name)), str(getattr(again, name))
    for row, same in zip(found.recorded.segments, found.computed.segments, strict=False):
        yield f"segment {row.label}", _segment(row), _segment(same)
    for name in _FIGURES:
        yield name, str(getattr(found.recorded, name)), str(getattr(found.computed, name))


def _segment(row: releases.SegmentEvidence) -> str:
    """Sessions, voted and approval, stable and candidate."""
    return ", ".join(f"{arm.sessions} {arm.voted} {arm.approval}" for arm in (row.stable, row.candidate))
