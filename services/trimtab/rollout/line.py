"""One policy line as its release records tell it, and how new records are made from it. Pure.

Used by everything in `rollout` that decides. The newest record of a line routes its traffic, so every record carries
the line's serving arms, also that of a release that only waits.
"""

import dataclasses
import datetime
import secrets

from trimtab.core import completions, ids, lines, releases, text

State = releases.ReleaseState
STABLE, CANDIDATE = completions.Arm.STABLE, completions.Arm.CANDIDATE
CONTROLLER = "controller"
# Who acts when a request does not say.
OPERATOR = "operator"
# `Release.rule` of a policy that an operator put in place as anchor, without evidence.
ADOPTED = "adopted"
ACTIVE = frozenset({State.VERIFYING, State.SAFETY, State.EVIDENCE, State.PROMOTING, State.ROLLING_BACK})


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """by_id: the newest record of each release."""

    tenant: str
    name: str
    by_id: dict[str, releases.Release] = dataclasses.field(default_factory=dict)

    @property
    def head(self) -> releases.Release | None:
        """The newest record: it routes."""
        return max(self.by_id.values(), key=lambda release: release.revision, default=None)

    @property
    def newest_first(self) -> list[releases.Release]:
        """By when they began; the log's order would not do, since compaction keeps each one's last record."""
        return sorted(self.by_id.values(), key=lambda release: (release.created_at, release.id), reverse=True)

    @property
    def active(self) -> releases.Release | None:
        """The release under way; there is at most one."""
        return next((release for release in self.by_id.values() if release.state in ACTIVE), None)

    @property
    def waiting(self) -> list[releases.Release]:
        """Releases that wait for their turn, newest first."""
        return [release for release in self.newest_first if release.state is State.PENDING]

    @property
    def arms(self) -> tuple[releases.ArmTarget, ...]:
        return self.head.arms if self.head else ()

    @property
    def stable(self) -> releases.ArmTarget | None:
        return arm(self.arms, STABLE)

    @property
    def stable_id(self) -> str:
        return self.stable.policy_id if self.stable else ""

    @property
    def anchor_id(self) -> str:
        return self.head.anchor_id if self.head else ""

    @property
    def adopted_at(self) -> datetime.datetime | None:
        """When the line's first policy was adopted; None before."""
        adopted = (r for r in self.by_id.values() if is_adoption(r) and r.state is State.PROMOTED)
        return min((release.created_at for release in adopted), default=None)

    def acted(self, request_id: str) -> releases.Release | None:
        """What an operator's request has done already, when it is tried again."""
        mine = (one for one in self.by_id.values() if any(act.id == request_id for act in one.acts))
        return next(mine, None) if request_id else None

    def of_model(self, model_id: str) -> list[releases.Release]:
        """The releases of a model, newest first."""
        return [release for release in self.newest_first if release.candidate_id == model_id]

    def with_record(self, release: releases.Release) -> "Line":
        return dataclasses.replace(self, by_id=self.by_id | {release.id: release})

    def new(
        self,
        candidate_id: str,
        config: lines.ReleaseConfig,
        at: datetime.datetime,
        *,
        rule: str = "",
        reward_id: str = "",
    ) -> releases.Release:
        """A release that waits for its turn. Its first transition is the caller's to add (`moved`).

        reward_id: the reward model that shall score its answers. Without one, or a limit, its terms guard no reward.
        """
        if config.guardrails.reward == float("inf"):
            reward_id = ""
        return releases.Release(
            id=str(ids.uuid7()),
            context=text.Context(tenant=self.tenant, line=self.name),
            revision=0,
            candidate_id=candidate_id,
            stable_id=self.stable_id,
            anchor_id=self.anchor_id,
            state=State.PENDING,
            salt=secrets.token_bytes(16),
            created_at=at,
            arms=self.arms,
            rule=rule or config.rule,
            margin=config.margin,
            terms=config if reward_id else lines.unscored(config),
            reward_id=reward_id,
        )

    def beside(self, release: releases.Release) -> releases.Release:
        """The record of a release that does not route, carrying what serves now."""
        return dataclasses.replace(release, arms=self.arms, anchor_id=self.anchor_id)


def arm(arms: tuple[releases.ArmTarget, ...], which: completions.Arm) -> releases.ArmTarget | None:
    return next((target for target in arms if target.arm is which), None)


def split(
    stable: releases.ArmTarget | None, candidate: releases.ArmTarget | None, weight: float = 0.0
) -> tuple[releases.ArmTarget, ...]:
    """Both arms, the candidate's with this weight and the stable one's with the rest; absent ones left out."""
    targets = []
    if stable is not None:
        targets.append(dataclasses.replace(stable, arm=STABLE, weight=1.0 - weight))
    if candidate is not None:
        targets.append(dataclasses.replace(candidate, arm=CANDIDATE, weight=weight))
    return tuple(targets)


def moved(
    release: releases.Release,
    to_state: State,
    reason: str,
    at: datetime.datetime,
    *,
    actor: str = CONTROLLER,
    arms: tuple[releases.ArmTarget, ...] | None = None,
) -> releases.Release:
    """The release in another state, with the transition in its history."""
    came_from = release.state if release.history else None
    transition = releases.Transition(to_state=to_state, at=at, reason=reason, actor=actor, from_state=came_from)
    return dataclasses.replace(
        release,
        state=to_state,
        history=(*release.history, transition),
        arms=release.arms if arms is None else arms,
        paused=False,
        waits_for="",
    )


def is_adoption(release: releases.Release) -> bool:
    return release.rule == ADOPTED


def is_undo(release: releases.Release) -> bool:
    """Rolling back what already serves everybody, on an operator's word."""
    stable = arm(release.arms, STABLE)
    return release.state is State.ROLLING_BACK and stable is not None and stable.policy_id == release.candidate_id
