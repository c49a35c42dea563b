"""What operators can ask of the controller: the domain methods behind the gRPC door (`rollout.servicer`).

Each act checks and is written as one record with its effect, which `rollout.desk` repeats on the audit trail; the
controller's loop does the rest. A request that is tried again is answered with what it did. Errors name the field or
the state and change nothing.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from trimtab.core import control, errors, ids, lines, models, releases
from trimtab.rollout import desk, intake, line

State = releases.ReleaseState
_NAME = 80
_Request = control.AdoptRequest | control.StartReleaseRequest | control.LineRequest | control.ReleaseQuarantineRequest
Models = Callable[[str], Awaitable[models.PublishedModel]]


class Operations:
    def __init__(
        self,
        office: desk.Desk,
        configured: Mapping[str, lines.LineConfig],
        model: Models,
        reward_of: intake.RewardOf = intake.no_reward,
    ) -> None:
        """model: the published model with an id, asked from any source; raises NotFound."""
        self._desk = office
        self._configured = configured
        self._model = model
        self._reward_of = reward_of

    async def adopt(self, request: control.AdoptRequest) -> releases.Release:
        """Makes a policy the line's stable one and its anchor; done by the loop once it is loaded and verified."""
        config = self._config(request.tenant, request.line)
        model = await self._policy(request.tenant, request.line, request.model_id)
        async with self._deciding(request.tenant, request.line) as serving:
            if (done := serving.acted(request.request_id)) is not None:
                return done
            if serving.stable_id == model.id == serving.anchor_id and serving.head is not None:
                return next(release for release in serving.of_model(model.id) if line.is_adoption(release))
            if (waiting := _unfinished(serving, model.id)) is not None and line.is_adoption(waiting):
                return waiting
            _refuse_if_busy(serving)
            release = serving.new(model.id, config.release, self._desk.now(), rule=line.ADOPTED)
            reason = request.reason or "No reason given."
            release = line.moved(release, State.PENDING, reason, release.created_at, actor=_actor(request.actor))
            return await self._act(request, "line.adopt", model.id, request.reason, release)

    async def start_release(self, request: control.StartReleaseRequest) -> releases.Release:
        """Queues a policy for its canary. One that its gates refused needs `force_reason`."""
        config = self._config(request.tenant, request.line)
        model = await self._policy(request.tenant, request.line, request.model_id)
        actor = _actor(request.actor)
        async with self._deciding(request.tenant, request.line) as serving:
            if (done := serving.acted(request.request_id)) is not None:
                return done
            if (waiting := _unfinished(serving, model.id)) is not None:
                return waiting
            if serving.stable is None:
                raise errors.WrongState(f"Line {serving.name!r} has no policy to compare with; adopt one first.")
            if serving.stable_id == model.id:
                raise errors.WrongState(f"Policy {model.id} is what line {serving.name!r} serves already.")
            if not model.passed and not request.force_reason.strip():
                raise errors.InvalidField(
                    "force_reason",
                    f"is empty and the gates refused {model.id} ({intake.refusal(model)})",
                    "say why it shall be released all the same",
                )
            now, reward_id = self._desk.now(), self._reward_of(serving)
            release = serving.new(model.id, config.release, now, reward_id=reward_id)
            why = f"Forced past the gates: {request.force_reason}" if not model.passed else "Asked for by an operator."
            release = line.moved(release, State.PENDING, why, release.created_at, actor=actor)
            if not model.passed:
                release = dataclasses.replace(release, forced_reason=request.force_reason)
            act = "release.start" if model.passed else "release.force"
            return await self._act(request, act, model.id, request.force_reason, release)

    async def get_release(self, request: control.GetReleaseRequest) -> releases.Release:
        await self._desk.look()
        return self._desk.find(request.tenant, request.release_id)

    async def list_releases(self, request: control.ListReleasesRequest) -> tuple[releases.Release, ...]:
        """Newest first."""
        await self._desk.look()
        return self._listed(request)

    async def watch_releases(self, request: control.ListReleasesRequest) -> AsyncIterator[releases.Release]:
        """The newest release of each line, then every change. A slow reader may miss what was replaced at once."""
        await self._desk.look()
        told: dict[str, releases.Release] = {}
        for one in self._lines(request):
            told |= one.by_id
            if one.newest_first:
                yield one.newest_first[0]
        while not self._desk.ending:
            next_change = self._desk.next_change
            changed = [release for release in self._listed(request) if _news(told.get(release.id), release)]
            for release in sorted(changed, key=lambda release: release.revision):
                told[release.id] = release
                yield release
            await next_change.wait()

    async def promote(self, request: control.LineRequest) -> releases.Release:
        """Promotes without waiting for evidence; forced, and marked so, unless the evidence says "better"."""
        async with self._active(request, State.SAFETY, State.EVIDENCE) as (done, active):
            if done:
                return active
            proven = active.evidence is not None and active.evidence.verdict is releases.Verdict.BETTER
            forced = active if proven else dataclasses.replace(active, forced_reason=_reason(request))
            act = "release.promote" if proven else "release.promote.force"
            reason = f"Promoted by an operator: {_reason(request)}"
            promoted = line.moved(forced, State.PROMOTING, reason, self._desk.now(), actor=_actor(request.actor))
            return await self._act(request, act, active.id, request.reason, promoted)

    async def pause(self, request: control.LineRequest) -> releases.Release:
        """Nothing moves forward until `resume`; a candidate found worse or broken is still withdrawn."""
        async with self._active(request, State.VERIFYING, State.SAFETY, State.EVIDENCE) as (done, active):
            if done:
                return active
            if active.paused:
                raise errors.WrongState(f"Release {active.id} is paused already.")
            changed = dataclasses.replace(active, paused=True)
            return await self._act(request, "release.pause", active.id, request.reason, changed)

    async def resume(self, request: control.LineRequest) -> releases.Release:
        async with self._active(request, State.VERIFYING, State.SAFETY, State.EVIDENCE) as (done, active):
            if done:
                return active
            if not active.paused:
                raise errors.WrongState(f"Release {active.id} is not paused.")
            changed = dataclasses.replace(active, paused=False)
            return await self._act(request, "release.resume", active.id, request.reason, changed)

    async def abort(self, request: control.LineRequest) -> releases.Release:
        """Withdraws the release under way, or the one that waits when none is; says nothing about its candidate."""
        async with self._deciding(request.tenant, request.line) as serving:
            if (done := serving.acted(request.request_id)) is not None:
                return done
            ending = serving.active or next(iter(serving.waiting), None)
            if ending is None:
                raise errors.WrongState(f"Line {serving.name!r} has no release under way.")
            if ending.state is State.ROLLING_BACK:
                raise errors.WrongState(f"Release {ending.id} is rolling back already.")
            arms = line.split(serving.stable, None) if ending.state in line.ACTIVE else serving.arms
            reason = f"Withdrawn by an operator: {_reason(request)}"
            ended = line.moved(
                ending, State.NOT_PROVEN, reason, self._desk.now(), actor=_actor(request.actor), arms=arms
            )
            return await self._act(request, "release.abort", ended.id, _reason(request), ended)

    async def undo(self, request: control.LineRequest) -> releases.Release:
        """Back to the policy before the last promotion."""
        async with self._deciding(request.tenant, request.line) as serving:
            if (done := serving.acted(request.request_id)) is not None:
                return done
            _refuse_if_busy(serving)
            promoted = _last_promotion(serving)
            previous = line.arm(serving.arms, line.CANDIDATE)
            if previous is None or previous.policy_id != promoted.stable_id:
                previous = releases.ArmTarget(arm=line.CANDIDATE, policy_id=promoted.stable_id)
            reason = f"Undone by an operator: {_reason(request)}"
            arms = line.split(serving.stable, previous)
            undone = line.moved(
                serving.beside(promoted),
                State.ROLLING_BACK,
                reason,
                self._desk.now(),
                actor=_actor(request.actor),
                arms=arms,
            )
            return await self._act(request, "release.undo", undone.id, _reason(request), undone)

    async def release_quarantine(self, request: control.ReleaseQuarantineRequest) -> releases.Release:
        """Lets training use again what a release that ended "worse" had put in quarantine."""
        reason = _reason(request)
        await self._desk.look()
        context = self._desk.find(request.tenant, request.release_id).context
        async with self._deciding(request.tenant, context.line) as serving:
            if (done := serving.acted(request.request_id)) is not None:
                return done
            held = serving.by_id[request.release_id]
            if held.quarantine is None or not held.quarantine.in_force:
                raise errors.WrongState(f"Release {held.id} holds nothing in quarantine{_since(held.quarantine)}.")
            let_go = dataclasses.replace(held.quarantine, released_at=self._desk.now())
            freed = dataclasses.replace(serving.beside(held), quarantine=let_go)
            # what routes stays the newest record of the line
            after = [serving.head] if serving.head is not None and serving.head.id != held.id else []
            return await self._act(request, "quarantine.release", held.id, reason, freed, *after)

    @contextlib.asynccontextmanager
    async def _deciding(self, tenant: str, name: str) -> AsyncIterator[line.Line]:
        self._config(tenant, name)
        async with self._desk.deciding():
            # what a request did before it was cut off is on the trail when it is tried again
            await self._desk.put_on_trail()
            yield self._desk.line(tenant, name)
        self._desk.wake.set()

    @contextlib.asynccontextmanager
    async def _active(
        self, request: control.LineRequest, *states: State
    ) -> AsyncIterator[tuple[bool, releases.Release]]:
        """The line's release under way, when it is in one of these states; or True and what the request did before."""
        _reason(request)
        async with self._deciding(request.tenant, request.line) as serving:
            done, active = serving.acted(request.request_id), serving.active
            if done is not None:
                yield True, done
                return
            if active is None:
                raise errors.WrongState(f"Line {serving.name!r} has no release under way.")
            if active.state not in states:
                allowed = " or ".join(state.value.replace("_", " ") for state in states)
                state = active.state.value.replace("_", " ")
                raise errors.WrongState(f"Release {active.id} is in state {state}; this needs {allowed}.")
            yield False, active

    async def _act(
        self, request: _Request, act: str, target: str, reason: str, *records: releases.Release
    ) -> releases.Release:
        """Writes what an operator did together with its effect: the first of these records, and those after it."""
        actor = _actor(request.actor)
        entry = releases.Act(request.request_id or str(ids.uuid7()), act, target, actor, reason, self._desk.now())
        acted = dataclasses.replace(records[0], acts=(*records[0].acts, entry))
        await self._desk.write(acted, *records[1:])
        return self._desk.find(request.tenant, acted.id)

    def _lines(self, request: control.ListReleasesRequest) -> list[line.Line]:
        return [
            one
            for (tenant, name), one in self._desk.lines.items()
            if tenant == request.tenant and request.line in ("", name)
        ]

    def _listed(self, request: control.ListReleasesRequest) -> tuple[releases.Release, ...]:
        listed = [release for one in self._lines(request) for release in one.by_id.values()]
        return tuple(sorted(listed, key=lambda release: (release.created_at, release.id), reverse=True))

    def _config(self, tenant: str, name: str) -> lines.LineConfig:
        config = self._configured.get(name)
        if config is None or config.tenant != tenant:
            known = ", ".join(sorted(key for key, one in self._configured.items() if one.tenant == tenant)) or "none"
            raise errors.InvalidField("line", f"{name[:_NAME]!r} is not a line of this tenant", f"use one of: {known}")
        return config

    async def _policy(self, tenant: str, name: str, model_id: str) -> models.PublishedModel:
        if not model_id:
            raise errors.InvalidField("model_id", "is empty", "name a published policy")
        model = await self._model(model_id)
        if (model.context.tenant, model.context.line) != (tenant, name):
            raise errors.NotFound(f"model of line {name!r} with id", model_id)
        if model.kind is not models.ModelKind.POLICY:
            kind = model.kind.value.replace("_", " ")
            raise errors.InvalidField("model_id", f"{model_id!r} is a {kind} model", "name a policy")
        return model


def _unfinished(serving: line.Line, model_id: str) -> releases.Release | None:
    return next((r for r in serving.of_model(model_id) if r.state not in releases.FINAL_STATES), None)


def _last_promotion(serving: line.Line) -> releases.Release:
    """The release that put the stable policy in place, when there was one before it."""
    placed = [release for release in serving.of_model(serving.stable_id) if release.state is State.PROMOTED]
    if not placed:
        raise errors.WrongState(f"Line {serving.name!r} has no promotion to undo.")
    last = max(placed, key=lambda release: release.history[-1].at)
    if line.is_adoption(last):
        raise errors.WrongState(f"The policy of line {serving.name!r} was adopted; adopt the one you want instead.")
    return last


def _refuse_if_busy(serving: line.Line) -> None:
    if serving.active is not None:
        state = serving.active.state.value.replace("_", " ")
        raise errors.WrongState(
            f"Release {serving.active.id} of line {serving.name!r} is in state {state}; wait for its end or abort it."
        )


def _news(before: releases.Release | None, release: releases.Release) -> bool:
    """Whether a record says more than that others were written beside it."""
    return before is None or dataclasses.replace(before, revision=release.revision) != release


def _reason(request: control.LineRequest | control.ReleaseQuarantineRequest) -> str:
    reason = request.reason.strip()
    if not reason:
        raise errors.InvalidField("reason", "is empty", "say why, for the audit trail")
    return reason


def _actor(name: str) -> str:
    return name or line.OPERATOR


def _since(quarantine: releases.Quarantine | None) -> str:
    released = quarantine.released_at if quarantine else None
    return f": it was released at {released:%Y-%m-%d %H:%M} UTC" if released else ""
