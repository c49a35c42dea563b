"""Every call of `wire.calls` reaches the method of its name and brings back the core dataclass that was meant."""

import asyncio
import inspect

import pytest
from tests.wire import records

from trimtab.core import completions, control, errors, feedback, ledger, runs, scoring, text
from trimtab.wire import calls, codec
from trimtabapi.feedback.v1 import feedback_service_pb2_grpc
from trimtabapi.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from trimtabapi.policy.v1 import policy_service_pb2, policy_service_pb2_grpc
from trimtabapi.release.v1 import release_pb2
from trimtabapi.reward.v1 import reward_service_pb2_grpc
from trimtabapi.rollout.v1 import rollout_service_pb2, rollout_service_pb2_grpc
from trimtabapi.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc

LINE = control.LineRequest("acme", "support", "me", "why")
RELEASE = records.RECORDS["rollouts"]
RUN = runs.Run(
    "run-1", runs.RunSpec("acme", "support", runs.RunKind.PPO, seed=3), runs.RunState.RUNNING, records.AT, step=2
)
EVENT = feedback.FeedbackEvent("fb", records.AT, feedback.Thumb(text.ResponseRef("c"), True))
SEND = feedback.SendRequest("acme", EVENT)
PREFERENCE = feedback.ImportedPreference((), text.Text("a"), text.Text("b"), "1")

# per class of calls: the generated base, how it is added, and every call with its request
UNWRITTEN = {
    calls.PolicyCalls: (
        policy_service_pb2_grpc.PolicyServiceServicer,
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server,
        {
            "complete": completions.CompleteRequest(()),
            "stream_complete": completions.CompleteRequest(()),
            "describe": None,
        },
    ),
    calls.FeedbackCalls: (
        feedback_service_pb2_grpc.FeedbackServiceServicer,
        feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server,
        {
            "send": SEND,
            "send_batch": feedback.SendBatchRequest((SEND,)),
            "import_preferences": feedback.ImportPreferencesRequest("acme", "support", "hh", (PREFERENCE,)),
        },
    ),
    calls.RewardCalls: (
        reward_service_pb2_grpc.RewardServiceServicer,
        reward_service_pb2_grpc.add_RewardServiceServicer_to_server,
        {"score": scoring.ScoreRequest("m", ()), "list_reward_models": None},
    ),
    calls.LedgerCalls: (
        ledger_service_pb2_grpc.LedgerServiceServicer,
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server,
        {
            "trace": ledger.TraceRequest("acme", "x"),
            "lineage": ledger.LineageRequest("acme", "m"),
            "list_quarantines": ledger.ListQuarantinesRequest("acme", "support"),
            "list_audit": ledger.ListAuditRequest("acme", "support", 5),
            "evidence": ledger.EvidenceRequest("acme", "rel", 3.0),
            "unscored": ledger.UnscoredRequest("acme", "rel", 64),
            "counts": ledger.CountsRequest("acme", "support"),
            "acquire_lease": ledger.AcquireLeaseRequest("n", "h", 1.0),
            "release_lease": ledger.ReleaseLeaseRequest("n", "h"),
        },
    ),
    calls.TrainerCalls: (
        trainer_service_pb2_grpc.TrainerServiceServicer,
        trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server,
        {
            "start_run": runs.StartRunRequest(RUN.spec, "me"),
            "get_run": runs.GetRunRequest("acme", "run-1"),
            "list_runs": runs.ListRunsRequest("acme"),
            "watch_run": runs.GetRunRequest("acme", "run-1"),
            "cancel_run": runs.CancelRunRequest("acme", "run-1"),
        },
    ),
    calls.RolloutCalls: (
        rollout_service_pb2_grpc.RolloutServiceServicer,
        rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server,
        {
            "adopt": control.AdoptRequest("acme", "support", "m"),
            "start_release": control.StartReleaseRequest("acme", "support", "m"),
            "get_release": control.GetReleaseRequest("acme", "rel"),
            "list_releases": control.ListReleasesRequest("acme"),
            "watch_releases": control.ListReleasesRequest("acme"),
            "promote": LINE,
            "pause": LINE,
            "resume": LINE,
            "abort": LINE,
            "undo": LINE,
            "release_quarantine": control.ReleaseQuarantineRequest("acme", "rel", "ann", "why", "request"),
        },
    ),
}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


async def _made(client, name, request):
    """The call's answer, or the list of its events."""
    arguments = () if request is None else (request,)
    answer = getattr(client, name)(*arguments, timeout_s=10)
    if inspect.isasyncgen(answer):
        return [event async for event in answer]
    return await answer


@pytest.mark.parametrize("kind", UNWRITTEN, ids=lambda kind: kind.__name__)
async def test_each_call_reaches_the_method_of_its_name(serve, kind):
    base, register, requests = UNWRITTEN[kind]
    public = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert public == set(requests)
    client = kind((await serve(register, base())).channel)
    for name, request in requests.items():
        with pytest.raises(errors.NotBuiltYet, match=f"/{_camel(name)} is part of the interface"):
            await _made(client, name, request)


class Rollout(rollout_service_pb2_grpc.RolloutServiceServicer):
    """Answers every verb with the same release; says who asked in its forced reason."""

    def __init__(self):
        self.left = asyncio.Event()

    def _answer(self, request, context):
        return _wire_release(getattr(request, "actor", ""))

    async def Adopt(self, request, context):
        return rollout_service_pb2.AdoptResponse(release=self._answer(request, context))

    async def StartRelease(self, request, context):
        return rollout_service_pb2.StartReleaseResponse(release=self._answer(request, context))

    async def GetRelease(self, request, context):
        return rollout_service_pb2.GetReleaseResponse(release=self._answer(request, context))

    async def ListReleases(self, request, context):
        return rollout_service_pb2.ListReleasesResponse(releases=[self._answer(request, context)] * 2)

    async def WatchReleases(self, request, context):
        try:
            for _ in range(2):
                yield rollout_service_pb2.WatchReleasesResponse(release=self._answer(request, context))
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def Promote(self, request, context):
        return rollout_service_pb2.PromoteResponse(release=self._answer(request, context))

    async def Pause(self, request, context):
        return rollout_service_pb2.PauseResponse(release=self._answer(request, context))

    async def Resume(self, request, context):
        return rollout_service_pb2.ResumeResponse(release=self._answer(request, context))

    async def Abort(self, request, context):
        return rollout_service_pb2.AbortResponse(release=self._answer(request, context))

    async def Undo(self, request, context):
        return rollout_service_pb2.UndoResponse(release=self._answer(request, context))


def _wire_release(reason: str) -> release_pb2.Release:
    release = codec.to_proto(RELEASE, release_pb2.Release)
    release.forced_reason = reason or RELEASE.forced_reason
    return release


@pytest.fixture
async def rollout(serve):
    return await serve(rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server, Rollout())


@pytest.mark.parametrize("verb", ["promote", "pause", "resume", "abort", "undo"])
async def test_a_verb_carries_who_asked_and_brings_the_release(rollout, verb):
    release = await getattr(calls.RolloutCalls(rollout.channel), verb)(LINE)
    assert release.forced_reason == "me"
    assert release.evidence == RELEASE.evidence


async def test_releases_come_back_whole(rollout):
    client = calls.RolloutCalls(rollout.channel)
    assert await client.get_release(control.GetReleaseRequest("acme", "rel")) == RELEASE
    assert await client.adopt(control.AdoptRequest("acme", "support", "m")) == RELEASE
    assert await client.start_release(control.StartReleaseRequest("acme", "support", "m")) == RELEASE
    assert await client.list_releases(control.ListReleasesRequest("acme")) == (RELEASE, RELEASE)


async def test_a_watch_ends_on_the_server_when_its_watcher_leaves(serve):
    servicer = Rollout()
    rollout = await serve(rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server, servicer)
    watch = calls.RolloutCalls(rollout.channel).watch_releases(control.ListReleasesRequest("acme"))
    assert await anext(watch) == RELEASE
    await watch.aclose()
    async with asyncio.timeout(10):
        await servicer.left.wait()


async def test_a_watch_ends_when_the_process_stops_and_does_not_hold_it_up(rollout):
    rollout.process.settings = rollout.process.settings.model_copy(update={"drain_s": 30.0})
    watch = calls.RolloutCalls(rollout.channel).watch_releases(control.ListReleasesRequest("acme"))
    assert [await anext(watch), await anext(watch)] == [RELEASE, RELEASE]
    following = asyncio.create_task(anext(watch))
    async with asyncio.timeout(10):
        await rollout.stop()
        with pytest.raises(errors.ServiceUnavailable, match="stopping; watch again"):
            await following


class Trainer(trainer_service_pb2_grpc.TrainerServiceServicer):
    async def StartRun(self, request, context):
        return trainer_service_pb2.StartRunResponse(run=codec.to_proto(RUN, trainer_service_pb2.Run))

    async def GetRun(self, request, context):
        return codec.to_proto(
            runs.GetRunResponse(RUN, (records.RECORDS["models"],)), trainer_service_pb2.GetRunResponse
        )

    async def ListRuns(self, request, context):
        return trainer_service_pb2.ListRunsResponse(runs=[codec.to_proto(RUN, trainer_service_pb2.Run)])

    async def WatchRun(self, request, context):
        for _ in range(3):
            yield trainer_service_pb2.WatchRunResponse(run=codec.to_proto(RUN, trainer_service_pb2.Run))

    async def CancelRun(self, request, context):
        return trainer_service_pb2.CancelRunResponse(run=codec.to_proto(RUN, trainer_service_pb2.Run))


async def test_runs_come_back_whole(serve):
    served = await serve(trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server, Trainer())
    client = calls.TrainerCalls(served.channel)
    asked = runs.GetRunRequest("acme", "run-1")
    assert await client.start_run(runs.StartRunRequest(RUN.spec)) == RUN
    assert (await client.get_run(asked)).models == (records.RECORDS["models"],)
    assert await client.list_runs(runs.ListRunsRequest("acme")) == (RUN,)
    assert [run async for run in client.watch_run(asked)] == [RUN, RUN, RUN]
    assert await client.cancel_run(runs.CancelRunRequest("acme", "run-1")) == RUN


class Flaky(policy_service_pb2_grpc.PolicyServiceServicer, ledger_service_pb2_grpc.LedgerServiceServicer):
    """Unavailable twice, then well; counts how often each method was asked."""

    def __init__(self):
        self.asked = {}

    def _unavailable(self, name):
        self.asked[name] = self.asked.get(name, 0) + 1
        if self.asked[name] < 3:
            raise errors.ServiceUnavailable("Not yet; try again.")

    async def Counts(self, request, context):
        self._unavailable("counts")
        return ledger_service_pb2.CountsResponse(feedback=7)

    async def Complete(self, request, context):
        self._unavailable("complete")
        return policy_service_pb2.CompleteResponse()

    async def Describe(self, request, context):
        self.asked["describe"] = self.asked.get("describe", 0) + 1
        raise errors.WrongState("It is asleep; wake it.")


async def test_a_read_is_tried_again_while_the_service_is_away(serve):
    flaky = Flaky()
    served = await serve(ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, flaky)
    answer = await calls.LedgerCalls(served.channel).counts(ledger.CountsRequest("acme", "support"))
    assert (answer.feedback, flaky.asked) == (7, {"counts": 3})


async def test_other_errors_are_not_tried_again(serve):
    flaky = Flaky()
    served = await serve(policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, flaky)
    with pytest.raises(errors.WrongState):
        await calls.PolicyCalls(served.channel).describe()
    assert flaky.asked == {"describe": 1}


@pytest.mark.parametrize(("assigns_ids", "asked"), [(False, 1), (True, 3)])
async def test_a_completion_is_tried_again_only_where_its_id_is_fixed(serve, assigns_ids, asked):
    flaky = Flaky()
    register = policy_service_pb2_grpc.add_PolicyServiceServicer_to_server
    served = await serve(register, flaky, assigns_ids=assigns_ids)
    # the toy's empty answer is no completion: a fault of the service's, and a sign that it was reached
    with pytest.raises(errors.InternalFault if assigns_ids else errors.ServiceUnavailable):
        await calls.PolicyCalls(served.channel).complete(completions.CompleteRequest(()))
    assert flaky.asked == {"complete": asked}
