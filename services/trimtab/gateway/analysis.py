"""What users' votes say of a line's release, for controllers that move other things by it: Argo Rollouts and Flagger.

Called by `gateway.routes`. Argo Rollouts' web metric reads the figures and goes by `verdict`; Flagger's hooks go by the
status alone: `confirm-promotion` may go on at 200, `rollback` shall happen at 200. Flagger sends no headers,
so its hooks carry the API key in their `metadata`. What both get is the record that the rollout controller wrote.
"""

import enum
from typing import Any

from trimtab.core import errors, releases
from trimtab.gateway import fields

State = releases.ReleaseState


class Hook(enum.StrEnum):
    """Of Flagger."""

    CONFIRM_PROMOTION = "confirm-promotion"
    ROLLBACK = "rollback"


# In which a release is on its way out, or gone, whatever the reason.
_WITHDRAWN = frozenset({State.ROLLING_BACK, State.ROLLED_BACK, State.NOT_PROVEN, State.FAILED})


def figures(release: releases.Release, policy: str) -> dict[str, Any]:
    """policy: whose release it should be, an id or its beginning; empty: whichever it is. NotFound for another one."""
    if not release.candidate_id.startswith(policy):
        raise errors.NotFound(f"release of line {release.context.line!r} for policy", policy)
    found = release.evidence
    return {
        "line": release.context.line,
        "release": release.id,
        "policy": release.candidate_id,
        "state": release.state.value,
        "paused": release.paused,
        "verdict": (found.verdict if found else releases.Verdict.UNDECIDED).value,
        "withdrawn": release.state in _WITHDRAWN,
        "difference": found.difference if found else None,
        "lower": found.lower if found else None,
        "upper": found.upper if found else None,
        "sessions": {arm.arm.value: arm.voted for arm in found.arms} if found else {},
        "reason": release.history[-1].reason if release.history else "",
    }


def answer_hook(hook: Hook, release: releases.Release, policy: str) -> dict[str, Any]:
    """The figures where the hook's answer is yes; WrongState, with the reason, where it is no."""
    said = figures(release, policy)
    proven = release.state is State.PROMOTED or (said["verdict"] == "better" and not said["withdrawn"])
    if not (proven if hook is Hook.CONFIRM_PROMOTION else said["withdrawn"]):
        where = release.state.value.replace("_", " ")
        raise errors.WrongState(f"Release {release.id} is {where}, its verdict {said['verdict']}. {said['reason']}")
    return said


def read_hook(body: fields.Fields) -> tuple[str, str]:
    """(API key, policy) of a hook's metadata; what else Flagger says is not needed here."""
    given = body.take("metadata")
    if not isinstance(given, dict):
        raise errors.InvalidField("metadata", "is missing", "give the hook `metadata` with an `api_key`")
    metadata = fields.Fields(given, "metadata")
    return metadata.text("api_key"), metadata.text("policy")
