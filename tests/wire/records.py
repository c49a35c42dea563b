"""One record per topic, written out in full: what the golden bytes say."""

import datetime

from trimtab.bus import topics
from trimtab.core import audit, completions, examples, feedback, models, releases, scoring, text

AT = datetime.datetime(2026, 11, 21, 12, 30, 15, 250_000, tzinfo=datetime.UTC)
CONTEXT = text.Context(
    tenant="acme",
    line="support",
    session_hash=bytes(range(16)),
    subject_hash=bytes(range(16, 32)),
    store=True,
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    config_digest="c0ffee" + "0" * 58,
)
PROMPT = (
    text.Message(text.Role.SYSTEM, text.Text("Be brief.")),
    text.Message(text.Role.USER, text.Text("Wie spät ist es? ⏰")),
)
REF = text.ResponseRef("chatcmpl-abc", 1)

RECORDS = {
    topics.COMPLETIONS.name: completions.Completion(
        id="chatcmpl-abc",
        context=CONTEXT,
        created_at=AT,
        prompt=PROMPT,
        responses=(
            completions.Response(
                choice=0,
                text=text.Text("Zwölf."),
                token_ids=(5, 6, 2),
                logprobs_raw=(-0.5, -1.25, -0.125),
                logprobs_sampled=(-0.25, -1.0, 0.0),
                finish_reason=completions.FinishReason.STOP,
                top_logprobs=(completions.TokenAlternatives((completions.TokenAlternative(5, "Zw", -0.5),)),),
                tokens=("Zw", "ölf.", ""),
            ),
            completions.Response(choice=1, text=text.Text(text.Ciphertext(b"\x00\xff", "key-1"))),
        ),
        origin=completions.Origin.SERVED,
        prompt_token_ids=(1, 2, 3),
        sampling=completions.Sampling(temperature=0.0, top_k=0, seed=-7, stop=("\n",), logprobs=True),
        policy_id="a" * 64,
        loaded_digest="b" * 64,
        exposure=completions.Exposure("rel-1", "evidence", completions.Arm.CANDIDATE, 0.5, True),
        latency_s=0.75,
        time_to_first_token_s=0.125,
        engine="local",
    ),
    topics.FEEDBACK.name: feedback.FeedbackEvent(
        id="fb-1",
        occurred_at=AT,
        kind=feedback.Comparison(REF, text.ResponseRef("chatcmpl-abc", 0), strength=0.5),
        context=CONTEXT,
        rater=feedback.Rater(feedback.RaterKind.ANNOTATOR, "r1"),
        surface="ab",
        criterion="helpful",
        supersedes=("fb-0",),
        verified=True,
        read_from=("fb-c",),
    ),
    topics.EXAMPLES.name: examples.Example(
        id="ex-1",
        context=CONTEXT,
        partition=3,
        sequence=41,
        revision=2,
        fold=7,
        occurred_at=AT,
        feedback_id="fb-1",
        kind=examples.PairExample(text.Text("Zwölf."), text.Text("Es ist zwölf Uhr."), strength=0.5),
        rater=feedback.Rater(feedback.RaterKind.USER),
        surface="ab",
        criterion="helpful",
        propensity=0.5,
        prompt=PROMPT,
        feedback_chain=("fb-0", "fb-1"),
        responses=(REF,),
        policy_ids=("a" * 64,),
    ),
    topics.SCORES.name: scoring.AnswerScore(
        "chatcmpl-abc", CONTEXT, "rel-1", reward_id="a" * 64, loaded_digest="b" * 64, at=AT, outcome=-1.25
    ),
    topics.MODELS.name: models.PublishedModel(
        id="a" * 64,
        context=CONTEXT,
        kind=models.ModelKind.EVALUATION_REWARD,
        published_at=AT,
        parents=("d" * 64,),
        run_id="run-1",
        datasets=("e" * 64,),
        gates=(models.GateFigure("nll", 0.5, 0.6931, True, "nats per pair"),),
        passed=True,
        generation=4,
        uri="file:///models/manifests/a.json",
        method="reward",
    ),
    topics.ROLLOUTS.name: releases.Release(
        id="rel-1",
        context=CONTEXT,
        revision=3,
        candidate_id="a" * 64,
        stable_id="f" * 64,
        anchor_id="f" * 64,
        state=releases.ReleaseState.ROLLING_BACK,
        salt=b"salt",
        created_at=AT,
        arms=(releases.ArmTarget(completions.Arm.STABLE, "f" * 64, "127.0.0.1:7001", 0.5, "b" * 64),),
        paused=True,
        rule="noninferior",
        margin=0.02,
        evidence=releases.Evidence(
            arms=(releases.ArmEvidence(completions.Arm.STABLE, 40, 30, 0.75, 90, 35),),
            difference=-0.25,
            lower=-0.5,
            upper=-0.125,
            verdict=releases.Verdict.WORSE,
            reason="worse",
            consumed={"feedback/0": 12},
        ),
        history=(
            releases.Transition(releases.ReleaseState.PENDING, AT, "asked", "operator"),
            releases.Transition(
                releases.ReleaseState.ROLLING_BACK, AT, "worse", "controller", releases.ReleaseState.EVIDENCE
            ),
        ),
        evidence_started_at=AT,
        forced_reason="a test",
        generation=9,
    ),
    topics.ERASURES.name: audit.Erasure("er-1", CONTEXT, AT, "operator"),
    topics.AUDIT.name: audit.AuditRecord("au-1", CONTEXT, AT, "operator", "release.force", "rel-1", "a test"),
    topics.DEADLETTER.name: audit.DeadLetter(
        "feedback", 3, 77, b"\x01", b"\xff\xfe", {"trimtab-schema": b"feedback/9"}, "ledger", "unreadable", AT
    ),
}
# What else stands on topics with records of several kinds, by the name of its file.
FURTHER = {
    "deadletter-cut": audit.DeadLetter(
        "feedback", 3, 78, b"\x01", b"\xff\xfe", {}, "ledger", "too large", AT, value_bytes=10_000_000
    ),
    "deadletter-settled": audit.DeadLetterSettled(
        "au-2", "feedback", 3, 77, audit.Settlement.REPLAYED, "operator", "it is read now", AT
    ),
    "consumer-halted": audit.ConsumerHalted("ledger", "feedback", 3, 97, "20 in a row", AT),
    "consumer-resumed": audit.ConsumerResumed("ledger", AT, "operator", "a broken import", 500, "au-3"),
}
