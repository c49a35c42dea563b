"""Whatever an operator does through any door leaves one audit record, also when the request is sent again.

A method that is added to an operator's door belongs into one of the sets below; as an act, with how it is done.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from tests.services.rollout.test_releases_end_to_end import LINE, TENANT, State, adopted, canary

import trimtab_client
from trimtab.core import audit, control, errors, models, runs
from trimtab.trainer import app as trainer_app
from trimtab.trainer import settings as trainer_settings
from trimtab.wire import calls
from trimtabapi.feedback.v1 import feedback_service_pb2
from trimtabapi.ledger.v1 import ledger_service_pb2
from trimtabapi.reward.v1 import reward_service_pb2
from trimtabapi.rollout.v1 import rollout_service_pb2
from trimtabapi.trainer.v1 import trainer_service_pb2

# The doors that operators use; apps and their users have PolicyService and what of FeedbackService is no act.
DOORS = (
    feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
    rollout_service_pb2.DESCRIPTOR.services_by_name["RolloutService"],
    trainer_service_pb2.DESCRIPTOR.services_by_name["TrainerService"],
    ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    reward_service_pb2.DESCRIPTOR.services_by_name["RewardService"],
)
ANSWERS = {
    *("GetRelease", "ListReleases", "WatchReleases", "GetRun", "ListRuns", "WatchRun", "Trace", "Lineage", "Evidence"),
    *("Counts", "ListQuarantines", "ListAudit", "Score", "ListRewardModels"),
}
# What people think of answers.
SAID = {"Send", "SendBatch"}
# Held by tests/services/feedback/test_feedback_service.py.
ACTS_ELSEWHERE = {"ImportPreferences"}
# Processes ask these of each other.
BETWEEN_PROCESSES = {"AcquireLease", "ReleaseLease", "Unscored"}
NOT_BUILT = {"ListTasks", "Erase"}
ACTS = {
    "Adopt": "line.adopt",
    "StartRelease": "release.start",
    "Promote": "release.promote.force",
    "Pause": "release.pause",
    "Resume": "release.resume",
    "Abort": "release.abort",
    "Undo": "release.undo",
    "ReleaseQuarantine": "quarantine.release",
    "StartRun": "run.start",
    "CancelRun": "run.cancel",
}


def test_every_method_of_an_operators_door_is_known_to_this_test() -> None:
    methods = {method for door in DOORS for method in door.methods_by_name}
    assert methods == ANSWERS | SAID | BETWEEN_PROCESSES | NOT_BUILT | ACTS.keys() | ACTS_ELSEWHERE


@dataclasses.dataclass
class Walk:
    """Does each act twice under one request id and sees what it left on the trail."""

    platform: Any
    done: set[str] = dataclasses.field(default_factory=set)

    async def act(self, method: str, request: Any, do: Callable[[Any], Awaitable[Any]]) -> Any:
        before = self.platform.audited()
        request = dataclasses.replace(request, request_id=f"request-{len(self.done)}-{method}")
        answer = await do(request)
        again = await do(request)
        assert again.id == answer.id
        new: list[audit.AuditRecord] = self.platform.audited()[len(before) :]
        said = [(one.id, one.act, one.actor) for one in new]
        assert said == [(request.request_id, ACTS[method], "ann")]
        assert new[0].reason and new[0].target and new[0].context.line == LINE
        self.done.add(method)
        return answer


@contextlib.asynccontextmanager
async def trainer_of(platform: Any) -> AsyncIterator[calls.TrainerCalls]:
    config = trainer_settings.TrainerSettings(
        **platform.shared, ledger_address=platform.ledger_address, state=platform.state / "trainer"
    )
    async with (
        trainer_app.build(config).serving() as address,
        trimtab_client.connect(address, platform.token) as channel,
    ):
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield calls.TrainerCalls(channel)


async def test_each_act_leaves_one_record_however_often_it_is_tried(platform: Any) -> None:
    walk = Walk(platform)

    def asked(reason: str) -> control.LineRequest:
        return control.LineRequest(TENANT, LINE, "ann", reason)

    def started(model_id: str) -> control.StartReleaseRequest:
        return control.StartReleaseRequest(TENANT, LINE, model_id, "ann", "why not")

    async with platform.rollout() as rollout:
        old = platform.publish_model("old")
        await walk.act("Adopt", control.AdoptRequest(TENANT, LINE, old, "ann", "first"), rollout.adopt)
        await platform.reach(old, State.PROMOTED)
        first = platform.publish_model("first", announce=False)
        await walk.act("StartRelease", started(first), rollout.start_release)
        await platform.reach(first, State.SAFETY)
        await walk.act("Pause", asked("look"), rollout.pause)
        await walk.act("Resume", asked("looked"), rollout.resume)
        await walk.act("Promote", asked("a deadline"), rollout.promote)
        await platform.reach(first, State.PROMOTED)
        await walk.act("Undo", asked("complaints"), rollout.undo)
        await platform.reach(first, State.ROLLED_BACK)
        second = platform.publish_model("second")
        await platform.reach(second, State.SAFETY)
        await walk.act("Abort", asked("enough"), rollout.abort)
        worse = await worse_release(platform)
        held = control.ReleaseQuarantineRequest(TENANT, worse, "ann", "the votes were a prank")
        await walk.act("ReleaseQuarantine", held, rollout.release_quarantine)
        with pytest.raises(errors.WrongState, match="released at"):
            await rollout.release_quarantine(held)
        with pytest.raises(errors.InvalidField, match="reason"):
            await rollout.release_quarantine(dataclasses.replace(held, reason=" "))
    async with trainer_of(platform) as trainer:
        demonstrations = platform.publish_model("demonstrations", kind=models.ModelKind.DATASET, announce=False)
        spec = runs.RunSpec(TENANT, LINE, runs.RunKind.SFT, parent_id=old, dataset_id=demonstrations)
        run = await walk.act("StartRun", runs.StartRunRequest(spec, "ann"), trainer.start_run)
        await walk.act("CancelRun", runs.CancelRunRequest(TENANT, run.id, "ann", "enough"), trainer.cancel_run)
    assert walk.done == ACTS.keys()
    async with platform.ledger_calls() as ledger:
        await platform.until(lambda: len(platform.audited()) == len(ACTS))
        listed = [record.id for record in await everything_audited(ledger)]
        assert listed == [record.id for record in reversed(platform.audited())]


async def everything_audited(ledger: Any) -> Any:
    from trimtab.core import ledger as questions

    for _ in range(100):
        records = (await ledger.list_audit(questions.ListAuditRequest(TENANT))).records
        if len(records) == len(ACTS):
            break
        await asyncio.sleep(0.05)
    return records


async def worse_release(platform: Any) -> str:
    """The id of a release that users found worse, of a policy with a reward model of its own."""
    stable = platform.head().arms[0].policy_id
    reward = platform.publish_model("reward", kind=models.ModelKind.REWARD)
    bad = platform.publish_model("bad", parents=(reward,))
    ended = await canary(platform, bad, {stable: 0.9, bad: 0.1})
    assert (ended.state, ended.quarantine.reward_ids) == (State.ROLLED_BACK, (reward,))
    return str(ended.id)


async def test_methods_that_are_not_built_say_so(platform: Any) -> None:
    door = ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"]
    async with trimtab_client.connect(platform.ledger_address, platform.token) as channel:
        for name in sorted(NOT_BUILT):
            method = channel.unary_unary(f"/{door.full_name}/{name}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_act_without_a_request_id_stands_once_for_each_call(platform: Any) -> None:
    async with platform.rollout() as rollout:
        await adopted(platform, rollout)
        new = platform.publish_model("new")
        await platform.reach(new, State.SAFETY)
        for verb in (rollout.pause, rollout.resume, rollout.pause):
            await verb(control.LineRequest(TENANT, LINE, "ann", "why"))
        assert [one.act for one in platform.audited()[1:]] == ["release.pause", "release.resume", "release.pause"]
        assert len({one.id for one in platform.audited()}) == 4
