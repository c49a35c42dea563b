"""The demo's last page: what the users got before and after, whether the books balance, where the time went."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from trimtab.cli import show
from trimtab.cli.demo import taste, users
from trimtab.core import ledger, releases
from trimtab.core import statistics as intervals


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One policy on the held-out questions, judged by the hidden taste.

    judgements: for each question, in the order of the questions, those of its answers. kl_to_anchor: nats per answer,
    as its gate measured it; None where no gate did.
    """

    name: str
    judgements: Sequence[Sequence[taste.Judgement]]
    kl_to_anchor: float | None

    @property
    def approvals(self) -> list[float]:
        """Mean over the answers to each question: these, not the answers, are independent of each other."""
        return [statistics.fmean(answer.approval for answer in answers) for answers in self.judgements]

    @property
    def answers(self) -> list[taste.Judgement]:
        return [answer for answers in self.judgements for answer in answers]

    @property
    def words(self) -> float:
        """Mean length of its answers."""
        return statistics.fmean(answer.words for answer in self.answers)

    def row(self) -> tuple[str, ...]:
        mean, low, high = intervals.mean_interval(self.approvals)
        answers = self.answers
        shares = (
            statistics.fmean(answer.right for answer in answers),
            statistics.fmean(answer.courteous for answer in answers),
            statistics.fmean(answer.flattery > 0 for answer in answers),
        )
        return (
            self.name,
            f"{mean:.3f} ({low:.3f} to {high:.3f})",
            "" if self.kl_to_anchor is None else f"{self.kl_to_anchor:.1f}",
            f"{self.words:.1f}",
            *(f"{share:.0%}" for share in shares),
            str(len(answers)),
        )


def gain(before: Measured, after: Measured) -> tuple[float, float, float]:
    """Difference of mean approval (after - before) with its 95 % interval, paired by question."""
    pairs = zip(before.approvals, after.approvals, strict=True)
    return intervals.mean_interval([later - earlier for earlier, later in pairs])


@dataclasses.dataclass(frozen=True, slots=True)
class Balance:
    """Every vote the users sent, followed to its end."""

    books: users.Books
    counts: ledger.CountsResponse

    @property
    def used(self) -> int:
        return sum(self.counts.dispositions.values())

    @property
    def holds(self) -> bool:
        return self.books.sent == self.books.acknowledged == self.counts.joined == self.counts.feedback == self.used

    def rows(self) -> list[tuple[str, str]]:
        rows = [
            ("sent by users", str(self.books.sent)),
            ("acknowledged", str(self.books.acknowledged)),
            ("joined with their completions", str(self.counts.joined)),
        ]
        rows += [(f"  {name}", str(number)) for name, number in sorted(self.counts.dispositions.items(), reverse=True)]
        rows += [(f"    {name}", str(number)) for name, number in sorted(self.counts.rejected_by_reason.items())]
        return rows


def document(
    screen: show.Screen, measured: Sequence[Measured], history: Sequence[releases.Release], balance: Balance
) -> dict[str, Any]:
    """The page for programs."""
    approvals = [intervals.mean_interval(item.approvals) for item in measured]
    return {
        "policies": [
            {
                "name": item.name,
                "approval": mean,
                "low": low,
                "high": high,
                "kl_to_anchor": item.kl_to_anchor,
                "words": item.words,
                "answers": len(item.answers),
            }
            for item, (mean, low, high) in zip(measured, approvals, strict=True)
        ],
        "releases": [
            {"policy": release.candidate_id, "state": release.state.value, "because": _last_reason(release)}
            for release in history
        ],
        "books": {name.strip(): int(number) for name, number in balance.rows()} | {"balance": balance.holds},
        "seconds": {name: round(seconds, 1) for name, seconds in screen.times.items()},
    }


def show_policies(screen: show.Screen, measured: Sequence[Measured]) -> None:
    screen.table(
        ("policy", "approval (95 %)", "KL", "words", "right", "courteous", "fawning", "answers"),
        [item.row() for item in measured],
        numbers=("KL", "words", "right", "courteous", "fawning", "answers"),
        title="\n[bold]Approval on held-out questions, judged by the users' hidden taste; KL to the anchor in nats per "
        "answer[/]",
    )


def show_balance(screen: show.Screen, balance: Balance) -> None:
    verdict = "[green]they balance[/]" if balance.holds else "[red]they do not balance[/]"
    screen.table(("feedback", "votes"), balance.rows(), numbers=("votes",), title=f"\n[bold]The books: {verdict}[/]")


def show_releases(screen: show.Screen, history: Sequence[releases.Release]) -> None:
    rows = [
        (release.candidate_id[: show.SHORT], release.state.value.replace("_", " "), _last_reason(release))
        for release in history
    ]
    screen.table(("policy", "release", "because"), rows, title="\n[bold]Releases[/]")


def _last_reason(release: releases.Release) -> str:
    return release.history[-1].reason if release.history else ""


def show_times(screen: show.Screen) -> None:
    rows = [(name, f"{seconds:.0f} s") for name, seconds in screen.times.items()]
    rows.append(("total", f"{sum(screen.times.values()):.0f} s"))
    screen.table(("stage", "took"), rows, numbers=("took",), title="\n[bold]Time[/]")
