"""Which policy answers: the newest release of each line, and the arm a session is given.

`Routes.apply` is called by the thread that follows topic `rollouts` (`gateway.app`), the rest by `gateway.answering`
and the doors. What a release's weights are is the rollout controller's business.
"""

import dataclasses
import string
import threading

from trimtab.core import completions, errors, ids, releases

MIN_PREFIX = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """Where one request goes, and how that was decided."""

    line: str
    policy_id: str
    address: str
    exposure: completions.Exposure


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """What `model` names: a line, and the arm it is pinned to if any."""

    release: releases.Release
    pinned: releases.ArmTarget | None

    @property
    def line(self) -> str:
        return self.release.context.line

    def route(self, session_hash: bytes) -> Route:
        """The session's route: its arm by hash and weight, the same each time while the release stands."""
        if self.pinned is not None:
            return self._to(self.pinned, propensity=1.0, randomised=False)
        usable = [arm for arm in self.release.arms if arm.weight > 0 and arm.address]
        if not usable:
            raise errors.ServiceUnavailable(f"No policy of line {self.line!r} is ready yet; try again shortly.")
        if len(usable) == 1:
            return self._to(usable[0], propensity=1.0, randomised=False)
        by_arm = {arm.arm: arm for arm in usable}
        candidate, stable = by_arm[completions.Arm.CANDIDATE], by_arm[completions.Arm.STABLE]
        share = candidate.weight / (candidate.weight + stable.weight)
        chosen = by_arm[ids.arm_of(self.release.salt, session_hash, share)]
        return self._to(chosen, propensity=share if chosen is candidate else 1 - share, randomised=True)

    def _to(self, arm: releases.ArmTarget, *, propensity: float, randomised: bool) -> Route:
        exposure = completions.Exposure(
            release_id=self.release.id,
            stage=self.release.state.value,
            arm=arm.arm,
            propensity=propensity,
            randomised=randomised,
        )
        return Route(self.line, arm.policy_id, arm.address, exposure)


class Routes:
    """The newest release per tenant and line. Written by one thread, read by any.

    `caught_up` is set once everything that stood in the log at the start was applied: before, nothing is known.
    """

    def __init__(self) -> None:
        self.caught_up = threading.Event()
        self._newest: dict[tuple[str, str], releases.Release] = {}

    def apply(self, release: releases.Release) -> None:
        key = (release.context.tenant, release.context.line)
        known = self._newest.get(key)
        if known is None or release.revision >= known.revision:
            self._newest[key] = release

    def places(self) -> frozenset[tuple[str, str]]:
        """Address and id of every policy that can be asked for now."""
        arms = (arm for release in list(self._newest.values()) for arm in release.arms)
        return frozenset((arm.address, arm.policy_id) for arm in arms if arm.address)

    def models(self, tenant: str) -> dict[str, releases.Release]:
        """Every name of the tenant that `select` takes, with the release behind it."""
        names: dict[str, releases.Release] = {}
        for (owner, line), release in sorted(self._newest.items()):
            if owner != tenant:
                continue
            names[line] = release
            for arm in release.arms:
                if arm.address:
                    names[f"{line}@{arm.arm.value}"] = release
                    names[f"{line}@{arm.policy_id}"] = release
        return names

    def select(self, tenant: str, model: str) -> Selection:
        """What a request's `model` names: `line`, `line@stable`, `line@candidate`, `line@<policy id or its start>`."""
        if not self.caught_up.is_set():
            raise errors.ServiceUnavailable("The gateway is still reading which models are served; try again shortly.")
        if not model:
            raise errors.InvalidField("model", "is missing", "name a line; `GET /v1/models` lists them")
        line, at, pin = model.partition("@")
        release = self._newest.get((tenant, line))
        if release is None:
            raise errors.UnknownModel(model, tuple(self.models(tenant)))
        if not at:
            return Selection(release, None)
        matching = [arm for arm in release.arms if arm.address and _names(pin, arm)]
        if len({arm.policy_id for arm in matching}) != 1:
            raise errors.UnknownModel(model, tuple(self.models(tenant)))
        return Selection(release, matching[0])


def _names(pin: str, arm: releases.ArmTarget) -> bool:
    if pin == arm.arm.value:
        return True
    is_prefix = len(pin) >= MIN_PREFIX and set(pin) <= set(string.hexdigits.lower())
    return is_prefix and arm.policy_id.startswith(pin)
