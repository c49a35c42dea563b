"""Enough new examples start a cycle: data set, reward model, policy; each step once, wherever it was interrupted."""

import dataclasses
import datetime
import json
import pathlib
import threading
from collections.abc import Iterator

import pytest
from tests.services.trainer.conftest import AT, LINE, TENANT, Installation, example, lines_toml, received, until

from trimtab.bus import connect, fold, topics
from trimtab.core import completions, errors, examples, lines, models, releases, runs, text
from trimtab.trainer.data import cuts, datasets, quarantines, store
from trimtab.trainer.links import known, ledger_link, publishing
from trimtab.trainer.runs import runbook, triggers
from trimtab.wire import schemas

State = releases.ReleaseState


def thumbs(start: int, count: int) -> list[examples.Example]:
    return [
        example(number, examples.ThumbExample(text.Text(f"answer {number}"), up=number % 3 == 0))
        for number in range(start, start + count)
    ]


class OneHolder(ledger_link.LedgerLink):
    """Always held, in generation 1: what a cycle needs of the ledger."""

    def __init__(self) -> None:
        super().__init__("nowhere", "", "test", 60)

    def generation(self, tenant: str, line: str) -> int:
        return 1


@dataclasses.dataclass
class Bench:
    """The parts that carry a cycle, without the worker: the test says how runs end."""

    database: store.Store
    book: runbook.Runbook
    publisher: publishing.Publisher
    topics_say: known.Known
    cycles: triggers.Triggers
    cutter: cuts.Cutter
    line: lines.LineConfig
    scratch: pathlib.Path
    adopted: releases.Release
    records: int = 0

    def add(self, several: list[examples.Example]) -> None:
        with self.database.transaction() as connection:
            store.add_examples(connection, [received(one) for one in several])

    def open_runs(self) -> list[runs.Run]:
        return [run for run in self.book.find(TENANT) if run.state not in runbook.FINAL_STATES]

    def cycle(self) -> triggers.Cycle:
        newest = self.cycles.newest(self.line)
        assert newest is not None
        return newest

    def succeed(self, run: runs.Run, **passed: bool) -> tuple[str, ...]:
        """Ends a run with models of these kinds, as the worker would."""
        outputs = []
        for kind, good in passed.items():
            folder = self.scratch / run.id / kind
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({"run": run.id, "kind": kind}))
            gate = models.GateFigure("nll", 0.5, 0.6, good)
            outputs.append(publishing.Output(folder, models.ModelKind(kind), kind, (gate,), good))
        self.book.start(run.id)
        result = publishing.Result({}, tuple(outputs), {}, {}, {})
        ids = self.publisher.publish_result(run, result)
        self.book.end(run.id, runs.RunState.SUCCEEDED, model_ids=ids)
        return ids


@pytest.fixture
def bench(installation: Installation, tmp_path: pathlib.Path) -> Iterator[Bench]:
    log = connect.open_log(installation.log_url)
    database = store.Store(tmp_path / "trainer.db")
    book, topics_say = runbook.Runbook(database), known.Known()
    line = lines.LineConfig(LINE, TENANT, lines.TriggerConfig(examples=20))
    link = OneHolder()
    publisher = publishing.Publisher(
        log=log, store=installation.registry, topics_say=topics_say, link=link, config_digest=""
    )
    held = quarantines.Quarantines(topics_say, installation.registry)
    cutter = cuts.Cutter(database, publisher, link, held, 200)
    cycles = triggers.Triggers(
        database=database,
        book=book,
        publisher=publisher,
        topics_say=topics_say,
        configured={LINE: line},
        cutter=cutter,
        topics_known=threading.Event(),
    )
    installation.adopt(installation.policy_id)
    adopted = schemas.decode(
        (record := installation.records(topics.ROLLOUTS)[0]).value, record.headers, releases.Release
    )
    topics_say.see_release(adopted)
    stop = threading.Event()
    folded = (log, topics.MODELS, topics_say.apply_model, stop, lambda: None)
    reading = threading.Thread(target=fold.follow, args=folded)
    reading.start()
    yield Bench(database, book, publisher, topics_say, cycles, cutter, line, tmp_path / "made", adopted)
    stop.set()
    reading.join(30)
    database.close()
    log.close()


def steps(bench: Bench, count: int = 3) -> None:
    for _ in range(count):
        bench.cycles.step()


def test_a_cycle_leads_from_examples_to_a_policy(bench: Bench, installation: Installation) -> None:
    bench.add(thumbs(0, 19))
    steps(bench)
    assert bench.cycles.newest(bench.line) is None
    bench.add(thumbs(19, 1))
    steps(bench)
    (reward_run,) = bench.open_runs()
    anchor, data = installation.policy_id, bench.cycle().dataset_id
    assert reward_run.asked_by == "trigger"
    assert (reward_run.spec.kind, reward_run.spec.parent_id) == (runs.RunKind.REWARD, anchor)
    assert reward_run.spec.dataset_id == data
    reward, judge = bench.succeed(reward_run, reward=True, evaluation_reward=True)
    steps(bench)
    (policy_run,) = bench.open_runs()
    assert policy_run.spec.kind is runs.RunKind.PPO
    assert (policy_run.spec.parent_id, policy_run.spec.reference_id) == (anchor, anchor)
    assert (policy_run.spec.reward_id, policy_run.spec.evaluation_reward_id) == (reward, judge)
    assert policy_run.spec.dataset_id == data
    (policy,) = bench.succeed(policy_run, policy=True)
    steps(bench)
    assert bench.cycle().state is triggers.CycleState.RELEASE
    decide(bench, policy, State.PROMOTED)
    assert (bench.cycle().state, bench.cycle().outcome) == (triggers.CycleState.ENDED, "promoted: users said so")
    made = {model.id: model for model in installation.published()}
    assert list(made) == [data, reward, judge, policy]
    assert made[policy].parents == (anchor, reward, judge)
    assert made[policy].datasets == (data,)
    assert made[policy].generation == 1


@pytest.mark.parametrize(("method", "asks_a_reward_model"), [("rloo", True), ("kto", False)])
def test_a_line_says_by_which_method_its_cycles_train(bench: Bench, method: str, asks_a_reward_model: bool) -> None:
    trigger = lines.TriggerConfig(method=method, examples=20)
    bench.cycles._lines = {LINE: dataclasses.replace(bench.line, trigger=trigger)}
    bench.add(thumbs(0, 20))
    steps(bench)
    (reward_run,) = bench.open_runs()
    reward, judge = bench.succeed(reward_run, reward=True, evaluation_reward=True)
    steps(bench)
    (policy_run,) = bench.open_runs()
    assert policy_run.spec.kind.value == method
    assert policy_run.spec.reward_id == (reward if asks_a_reward_model else "")
    assert policy_run.spec.evaluation_reward_id == judge


def test_every_example_of_the_line_is_accounted_for_in_the_data_set(bench: Bench, installation: Installation) -> None:
    withdrawn = example(3, None, revision=2, sequence=90, withdrawn=True)
    tie = example(60, examples.PairExample(text.Text("a"), text.Text("b"), tie=True))
    other_line = example(61, examples.ThumbExample(text.Text("a"), up=True), context=text.Context(TENANT, "other"))
    bench.add([*thumbs(0, 30), withdrawn, tie, other_line])
    steps(bench)
    folder = installation.registry.fetch(bench.cycle().dataset_id)
    members = {member.example_id: member for member in datasets.read_members(folder)}
    assert set(members) == {f"example-{number:04}" for number in [*range(30), 60]}
    assert members["example-0003"].reason == "withdrawn"
    card = json.loads((folder / "card.json").read_text())
    assert sum(card["dispositions"].values()) == card["members"] == 31
    used = datasets.read(folder)
    assert len(used.of("train")) == card["dispositions"]["trained"]
    assert len(used.of("held_out")) == card["dispositions"]["held out"]


def test_a_reward_model_refused_at_its_gates_ends_the_cycle_without_a_policy(bench: Bench) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    bench.succeed(bench.open_runs()[0], reward=False, evaluation_reward=True)
    steps(bench)
    assert bench.open_runs() == []
    assert "refused at its gates: nll" in bench.cycle().outcome


def test_a_failed_reward_run_ends_the_cycle_and_says_why(bench: Bench) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    run = bench.open_runs()[0]
    bench.book.start(run.id)
    bench.book.end(run.id, runs.RunState.FAILED, problem="no space left")
    steps(bench)
    assert "no space left" in bench.cycle().outcome


def train_a_policy(bench: Bench) -> str:
    """A cycle's runs, both good; its policy, whose release is to come."""
    bench.succeed(bench.open_runs()[0], reward=True, evaluation_reward=True)
    steps(bench)
    (policy,) = bench.succeed(bench.open_runs()[0], policy=True)
    steps(bench)
    assert bench.cycle().state is triggers.CycleState.RELEASE
    return policy


def release_record(bench: Bench, candidate_id: str, state: State) -> None:
    """What the rollout controller writes of a candidate: it routes, and carries the line's anchor."""
    anchor, live = bench.topics_say.anchor_and_live(TENANT, LINE)
    bench.records += 1
    serving = candidate_id if state is State.PROMOTED else live
    bench.topics_say.see_release(
        releases.Release(
            id=f"release of {candidate_id}",
            context=text.Context(TENANT, LINE),
            revision=1 + bench.records,
            candidate_id=candidate_id,
            stable_id=live,
            anchor_id=anchor,
            state=state,
            salt=b"salt",
            created_at=AT + datetime.timedelta(hours=bench.records),
            arms=(releases.ArmTarget(completions.Arm.STABLE, serving, weight=1.0),),
            history=(releases.Transition(state, AT, "users said so", "controller"),),
        )
    )


def decide(bench: Bench, policy: str, state: State) -> None:
    """The release of a policy comes to this end."""
    for step in (State.VERIFYING, State.EVIDENCE, state):
        release_record(bench, policy, step)
    steps(bench)


def test_the_next_cycle_waits_for_new_examples(bench: Bench) -> None:
    bench.add(thumbs(0, 50))
    steps(bench)
    decide(bench, train_a_policy(bench), State.PROMOTED)
    bench.add(thumbs(50, 19))
    steps(bench, 5)
    assert bench.cycle().number == 1
    bench.add(thumbs(69, 1))
    steps(bench)
    assert bench.cycle().number == 2


def test_cycles_follow_one_another_from_what_serves_with_the_anchor_as_reference(
    bench: Bench, installation: Installation
) -> None:
    """Promoted, not proven, rolled back, refused at the gate, promoted: none of them stops the next cycle."""
    live = anchor = installation.policy_id
    seen = []
    for number, state in enumerate(
        (State.PROMOTED, State.NOT_PROVEN, State.ROLLED_BACK, State.FAILED, State.PROMOTED), start=1
    ):
        bench.add(thumbs(20 * (number - 1), 20))
        steps(bench)
        assert bench.cycle().number == number
        members = datasets.read_members(installation.registry.fetch(bench.cycle().dataset_id))
        assert len(members) == 20 * number  # replay: all feedback of the line, the oldest too
        (reward_run,) = bench.open_runs()
        assert reward_run.spec.parent_id == anchor
        policy = train_a_policy(bench)
        policy_run = bench.book.get(TENANT, bench.cycle().policy_run_id)
        assert (policy_run.spec.parent_id, policy_run.spec.reference_id) == (live, anchor)
        decide(bench, policy, state)
        assert bench.cycle().outcome == f"{state.value.replace('_', ' ')}: users said so"
        live = policy if state is State.PROMOTED else live
        seen.append((reward_run.spec.seed, policy_run.spec.seed))
    assert seen == [(number, number) for number in range(1, 6)]


def test_a_reward_model_is_compared_with_the_last_that_passed_and_is_in_no_quarantine(
    bench: Bench, installation: Installation
) -> None:
    compared = []
    made = ["", "", ""]
    for number, passes in enumerate((True, False, True)):
        bench.add(thumbs(20 * number, 20))
        steps(bench)
        (run,) = bench.open_runs()
        compared.append(run.spec.reward_id)
        made[number], _ = bench.succeed(run, reward=passes, evaluation_reward=True)
        assert installation.registry.manifest(made[number]).parents == (installation.policy_id,)
        steps(bench)
        if passes:
            (policy,) = bench.succeed(bench.open_runs()[0], policy=True)
            steps(bench)
            decide(bench, policy, State.NOT_PROVEN)
    assert compared == ["", made[0], made[0]]
    assert bench.topics_say.incumbent(TENANT, LINE) == made[2]
    assert bench.topics_say.incumbent(TENANT, "another line") == ""
    worse = dataclasses.replace(
        bench.adopted, id="worse", revision=99, quarantine=releases.Quarantine(AT, reward_ids=(made[2],))
    )
    bench.topics_say.see_release(worse)
    assert bench.topics_say.incumbent(TENANT, LINE) == made[0]


def test_while_users_decide_on_its_candidate_nothing_starts_and_nothing_is_lost(
    bench: Bench, installation: Installation
) -> None:
    """What comes meanwhile is in the next data set; what starts it is feedback on the policy that then serves."""
    bench.add(thumbs(0, 20))
    steps(bench)
    policy = train_a_policy(bench)
    bench.add(thumbs(20, 20))
    for state in (None, State.PENDING, State.VERIFYING, State.SAFETY, State.EVIDENCE, State.PROMOTING):
        if state is not None:
            release_record(bench, policy, state)
        steps(bench)
        assert (bench.cycle().number, bench.open_runs()) == (1, [])
    decide(bench, policy, State.PROMOTED)
    assert (bench.cycle().number, bench.open_runs()) == (1, [])
    bench.add(thumbs(40, 20))
    steps(bench)
    assert bench.cycle().number == 2
    assert len(datasets.read_members(installation.registry.fetch(bench.cycle().dataset_id))) == 60
    (reward_run,) = bench.open_runs()
    bench.succeed(reward_run, reward=True, evaluation_reward=True)
    steps(bench)
    assert bench.open_runs()[0].spec.parent_id == policy


def test_cycles_that_train_a_policy_can_be_limited_and_one_with_a_refused_reward_model_is_none(bench: Bench) -> None:
    limited = dataclasses.replace(bench.line, trigger=lines.TriggerConfig(examples=20, cycles=2))
    bench.cycles._lines = {LINE: limited}
    bench.add(thumbs(0, 20))
    steps(bench)
    decide(bench, train_a_policy(bench), State.NOT_PROVEN)
    bench.add(thumbs(20, 20))
    steps(bench)
    bench.succeed(bench.open_runs()[0], reward=False)
    steps(bench)
    assert bench.cycle().state is triggers.CycleState.ENDED
    bench.add(thumbs(40, 20))
    steps(bench)
    assert bench.cycle().number == 3
    decide(bench, train_a_policy(bench), State.PROMOTED)
    bench.add(thumbs(60, 100))
    steps(bench, 5)
    assert (bench.cycle().number, bench.open_runs()) == (3, [])


def test_promotions_by_triggers_can_be_limited_and_what_was_not_proven_is_none(bench: Bench) -> None:
    limited = dataclasses.replace(bench.line, trigger=lines.TriggerConfig(examples=20, promotions=2))
    bench.cycles._lines = {LINE: limited}
    for number, verdict in enumerate((State.PROMOTED, State.NOT_PROVEN, State.PROMOTED), start=1):
        bench.add(thumbs(20 * number, 20))
        steps(bench)
        assert bench.cycle().number == number
        decide(bench, train_a_policy(bench), verdict)
        steps(bench)
    bench.add(thumbs(80, 100))
    steps(bench, 5)
    assert (bench.cycle().number, bench.open_runs()) == (3, [])


def test_a_cut_that_was_interrupted_is_made_again_the_same(bench: Bench, installation: Installation) -> None:
    bench.add(thumbs(0, 20))
    bench.cycles.step()
    assert bench.cycle().state is triggers.CycleState.CUTTING
    cycle = bench.cycle()
    # killed after the announcement, before the store noted it; meanwhile more arrived
    bench.cycles._cut(bench.line, cycle)
    first = bench.cycle().dataset_id
    with bench.database.transaction() as connection:
        connection.execute(store.CYCLES.update().values(state="cutting", dataset_id="", reward_run_id=""))
    bench.add(thumbs(20, 15))
    steps(bench)
    assert bench.cycle().dataset_id == first
    assert [model.id for model in installation.published()] == [first]


def test_nothing_starts_before_the_line_is_anchored(bench: Bench) -> None:
    bench.topics_say._releases.clear()
    bench.add(thumbs(0, 40))
    steps(bench)
    assert bench.cycles.newest(bench.line) is None


def test_a_fenced_off_trainer_publishes_nothing(bench: Bench, installation: Installation) -> None:
    newer = models.PublishedModel(
        "a" * 64, text.Context(TENANT, LINE), models.ModelKind.POLICY, AT + datetime.timedelta(1), generation=2
    )
    installation.put(topics.MODELS, [(newer.id.encode(), newer)])
    assert bench.topics_say.await_record(0, 30)
    bench.add(thumbs(0, 20))
    bench.cycles.step()
    with pytest.raises(errors.StaleGeneration):
        bench.cycles.step()
    assert bench.open_runs() == []
    assert installation.published() == [newer]


async def test_examples_on_the_log_start_a_cycle_in_the_running_trainer(installation: Installation) -> None:
    (installation.folder / "lines.toml").write_text(lines_toml(trigger=20))
    installation.adopt(installation.policy_id)
    async with installation.trainer() as trainer:
        several = thumbs(0, 25)
        installation.put(topics.EXAMPLES, [(one.context.session_hash, one) for one in [*several, *several]])
        asked = await until(lambda: trainer.list_runs(runs.ListRunsRequest(TENANT, LINE)))
        assert [run.asked_by for run in asked] == ["trigger"]
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, asked[0].id, "test", "seen enough"))
    (data,) = installation.published()
    assert data.kind is models.ModelKind.DATASET
    assert len(datasets.read_members(installation.registry.fetch(data.id))) == 25


@pytest.mark.parametrize("growth", [0, 5])
async def test_a_reward_run_without_a_data_set_gets_every_example_the_ledger_had_made_when_it_began(
    installation: Installation, growth: int
) -> None:
    several = thumbs(0, 25)
    installation.ledger.examples, installation.ledger.growth = 25, growth
    installation.put(topics.EXAMPLES, [(one.context.session_hash, one) for one in several[:20]])
    spec = runs.RunSpec(TENANT, LINE, runs.RunKind.REWARD, parent_id=installation.policy_id)
    async with installation.trainer() as trainer:
        asked = await trainer.start_run(runs.StartRunRequest(spec, "ada"))
        assert not asked.spec.dataset_id
        installation.put(topics.EXAMPLES, [(one.context.session_hash, one) for one in several[20:]])
        async for run in trainer.watch_run(runs.GetRunRequest(TENANT, asked.id), timeout_s=60):
            if run.spec.dataset_id:
                break
        await trainer.cancel_run(runs.CancelRunRequest(TENANT, asked.id, "test", "seen enough"))
    assert len(datasets.read_members(installation.registry.fetch(run.spec.dataset_id))) == 25


def members(installation: Installation, dataset_id: str) -> dict[str, str]:
    folder = installation.registry.fetch(dataset_id)
    return {member.example_id: member.disposition for member in datasets.read_members(folder)}


def ended_worse(bench: Bench, dataset: str, previous: str = "", *, released: bool = False) -> None:
    """The rollout controller's word that what led to a policy is in quarantine, or no more."""
    held = releases.Quarantine(AT, dataset, previous, ("a reward model",), AT if released else None)
    first = bench.adopted
    ended = dataclasses.replace(first, id="worse", state=releases.ReleaseState.ROLLED_BACK, quarantine=held)
    bench.topics_say.see_release(ended)


def test_what_led_to_a_worse_policy_is_left_out_of_later_data_sets_until_it_is_released(
    bench: Bench, installation: Installation
) -> None:
    bench.add(thumbs(0, 20))
    steps(bench)
    first = bench.cycle().dataset_id
    decide(bench, train_a_policy(bench), State.PROMOTED)
    bench.add(thumbs(20, 20))
    steps(bench)
    second = bench.cycle().dataset_id
    decide(bench, train_a_policy(bench), State.ROLLED_BACK)
    ended_worse(bench, second, first)
    bench.add(thumbs(40, 5))
    later = members(installation, bench.cutter.cut(TENANT, LINE, 45, "a run"))
    window = {f"example-{number:04}" for number in range(20, 40)}
    assert {name for name, disposition in later.items() if disposition == "quarantined"} == window
    assert len(later) == 45
    ended_worse(bench, second, first, released=True)
    assert bench.cutter.cut(TENANT, LINE, 45, "a run") == bench.cutter.cut(TENANT, LINE, 45, "a run")
    assert members(installation, bench.cutter.cut(TENANT, LINE, 45, "a run")) == later
    again = members(installation, bench.cutter.cut(TENANT, LINE, 45, "a later run"))
    assert "quarantined" not in again.values()


def test_quarantined_examples_start_no_cycle(bench: Bench) -> None:
    bench.add(thumbs(0, 20))
    ended_worse(bench, bench.cutter.cut(TENANT, LINE, 15, "an operator's run"))
    steps(bench)
    assert bench.cycles.newest(bench.line) is None
    bench.add(thumbs(20, 15))
    steps(bench)
    assert bench.cycle().number == 1


def test_while_it_is_unknown_what_is_in_quarantine_nothing_is_cut(bench: Bench) -> None:
    bench.add(thumbs(0, 20))
    ended_worse(bench, "f" * 64)
    with pytest.raises(ledger_link.NotYet, match="unknown"):
        bench.cycles.step()
    assert bench.cycles.newest(bench.line) is None
