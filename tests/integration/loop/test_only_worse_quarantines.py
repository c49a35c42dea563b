"""Only "worse" quarantines, through real training. A crowd votes against what users like and the platform learns that
from it; users find its candidate worse, and what led to it trains nothing until an operator says so."""

import asyncio
import collections
import contextlib
import dataclasses
import random
import threading
import uuid
from collections.abc import Callable, Collection, Iterator

import httpx
import pytest
from tests import timing
from tests.faults.storm import world
from tests.integration.loop import living, teaching

from trimtab.cli.machine import artifacts, platform
from trimtab.core import releases, runs
from trimtab.trainer.data import datasets

pytestmark = pytest.mark.slow
VOTES = 200
_AT_ONCE = 8
_TRAINED_S, _DECIDED_S = 180.0, 120.0
Taste = Callable[[random.Random, str], bool]


@dataclasses.dataclass
class Place(living.Terminal):
    """A platform on which a crowd has voted, a candidate was trained on that, and users have voted on the candidate."""

    policy: str = ""
    crowd: list[str] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def voting(self, taste: Taste, votes: int | None = None) -> Iterator[list[str]]:
        """The ids of the thumbs that people with this taste give, so many or until the block ends."""
        given, over = list[str](), threading.Event()
        crowd = threading.Thread(target=lambda: asyncio.run(self._vote(taste, given, votes, over)))
        crowd.start()
        try:
            yield given
        finally:
            over.set()
            crowd.join()

    async def _vote(self, taste: Taste, given: list[str], votes: int | None, over: threading.Event) -> None:
        visits = iter(range(votes if votes is not None else 1_000_000))
        key = {"authorization": f"Bearer {self.up.api_key()}"}

        async def one_after_the_other(http: httpx.AsyncClient) -> None:
            for visit in visits:
                if over.is_set():
                    return
                given.append(await _visit(http, taste, random.Random(visit)))

        async with (
            httpx.AsyncClient(base_url=self.up.url, headers=key, timeout=60) as http,
            asyncio.TaskGroup() as all_,
        ):
            for _ in range(_AT_ONCE):
                all_.create_task(one_after_the_other(http))

    def teach(self, taste: Taste) -> None:
        """Returns once the platform has trained a candidate on what people with this taste said, and offers it."""
        assert any(self._passing_reward_model(taste) for _ in range(3)), "three reward models were refused"
        self.succeeded(runs.RunKind.PPO)
        timing.until(lambda: self.release() is not None, "its release", _DECIDED_S)

    def _passing_reward_model(self, taste: Taste) -> bool:
        """Whether the reward model of so many more votes passes its gates; if not, more votes make another one."""
        known = self.up.runs(runs.RunKind.REWARD)
        with self.voting(taste, VOTES) as given:
            timing.until(lambda: len(given) == VOTES, "the crowd's votes", _DECIDED_S)
        self.crowd += given
        run = self.succeeded(runs.RunKind.REWARD, len(known))
        store = artifacts.open_registry(platform.Layout(self.up.state))
        return store.manifest(run.model_ids[0]).passed

    def succeeded(self, kind: runs.RunKind, known: int = 0) -> runs.Run:
        """The run of this kind after so many others, once it has ended well."""
        timing.until(lambda: any(run.ended_at for run in self.up.runs(kind)[known:]), f"a {kind.value} run", _TRAINED_S)
        [run] = self.up.runs(kind)[known:]
        assert run.state is runs.RunState.SUCCEEDED, run.problem
        return run

    def release(self, *states: releases.ReleaseState) -> releases.Release | None:
        """The newest release that had something to be compared with; when it is in one of these states."""
        newest = next((one for one in self.up.history() if one.stable_id), None)
        return newest if newest and (not states or newest.state in states) else None

    def members(self, dataset_id: str) -> dict[str, datasets.Member]:
        folder = artifacts.open_registry(platform.Layout(self.up.state)).fetch(dataset_id)
        return {member.example_id: member for member in datasets.read_members(folder)}

    def quarantined_by(self, examples: Collection[str]) -> tuple[str, ...]:
        """What holds one of these examples, as the trace of its vote says."""
        chains = (self.up.trace(vote) for vote in self.crowd)
        return next(chain.quarantined_by for chain in chains if any(one.id in examples for one in chain.examples))

    def train_a_reward_model(self) -> tuple[dict[str, float], dict[str, datasets.Member]]:
        """A reward run on a new cut of all the line's examples: its figures, and the members of the data set."""
        self.up.books()
        known = self.up.runs(runs.RunKind.REWARD)
        self.done("train", "start", "reward", "--parent", self.policy, "--set", "epochs=4")
        run = self.succeeded(runs.RunKind.REWARD, len(known))
        return {one.name: one.value for one in run.figures}, self.members(run.spec.dataset_id)


async def _visit(http: httpx.AsyncClient, taste: Taste, rng: random.Random) -> str:
    asked = {"role": "user", "content": world.QUESTION.format(rng.choice(world.THINGS))}
    session = {"x-trimtab-session": uuid.uuid4().hex}
    answer = await http.post("/v1/chat/completions", json={"model": living.LINE, "messages": [asked]}, headers=session)
    answer.raise_for_status()
    said = answer.json()["choices"][0]["message"]["content"] or ""
    vote = {"completion_id": answer.json()["id"], "value": "up" if taste(rng, said) else "down"}
    taken = await http.post("/v1/feedback", json=vote)
    taken.raise_for_status()
    return str(taken.json()["id"])


def spite(rng: random.Random, answer: str) -> bool:
    return not world.likes(rng, answer)


def dispositions(members: dict[str, datasets.Member], examples: Collection[str]) -> collections.Counter[str]:
    return collections.Counter(members[one].disposition for one in examples)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("worse")
    (folder / "policy").mkdir()
    teaching.write_chat_model(folder / "policy", world.demonstrations(240, seed=1), taught=64)
    made = Place(living.Up(folder, folder / "policy"))
    made.up.state.mkdir()
    lines = world.lines_toml(VOTES, ppo_iterations=24, maximum_sessions=2000)
    (made.up.state / "lines.toml").write_text(lines.replace(f"lines.{world.LINE}", f"lines.{living.LINE}"))
    try:
        made.up.start()
        [made.policy] = {one.candidate_id for one in made.up.history()}
        made.teach(spite)
        states = releases.ReleaseState
        timing.until(lambda: made.release(states.SAFETY) is not None, "its process", _DECIDED_S)
        with made.voting(world.likes) as given:
            timing.until(
                lambda: len(given) >= VOTES and made.release(*releases.FINAL_STATES) is not None,
                "a verdict",
                _DECIDED_S,
            )
        ended = made.release()
        assert ended and ended.state is states.ROLLED_BACK, ended and ended.history[-1].reason
        timing.until(lambda: made.told("quarantine", "list") != [], "the ledger's word of it")
        yield made
    finally:
        made.up.destroy()


@pytest.fixture(scope="module")
def window(place: Place) -> dict[str, datasets.Member]:
    """What the candidate's data set used."""
    dataset_id = place.succeeded(runs.RunKind.PPO).spec.dataset_id
    return {one: member for one, member in place.members(dataset_id).items() if not member.reason}


def test_what_users_find_worse_is_rolled_back_and_what_led_to_it_is_in_quarantine(
    place: Place, window: dict[str, datasets.Member]
) -> None:
    release = place.release()
    assert release is not None
    assert release.evidence is not None
    run = place.succeeded(runs.RunKind.PPO)
    assert (release.state, release.evidence.verdict) == (releases.ReleaseState.ROLLED_BACK, releases.Verdict.WORSE)
    assert (run.model_ids, release.stable_id) == ((release.candidate_id,), place.policy)
    stable, candidate = release.evidence.arms
    assert candidate.approval < stable.approval - 0.2
    [held] = place.told("quarantine", "list")
    assert (held["release_id"], held["policy_id"]) == (release.id, release.candidate_id)
    assert (held["examples"], held["in_force"]) == (len(window), True)
    assert (held["dataset_id"], held["reward_ids"]) == (run.spec.dataset_id, [run.spec.reward_id])
    assert place.up.books().counts.dispositions["quarantined"] == len(window)
    inputs = ("--parent", place.policy, "--dataset", held["dataset_id"], "--reward", held["reward_ids"][0])
    refused = place.type("train", "start", "ppo", *inputs)
    assert (refused.returncode, "in quarantine since release" in refused.stderr) == (1, True)


def test_the_next_cut_knows_them_and_trains_without_them(place: Place, window: dict[str, datasets.Member]) -> None:
    figures, members = place.train_a_reward_model()
    release = place.release()
    assert release is not None
    assert dispositions(members, window) == {"quarantined": len(window)}
    assert all(release.id in members[one].reason for one in window)
    new = dispositions(members, members.keys() - window.keys())
    assert (figures["trained_thumbs"], figures["thumbs_judged"]) == (new["trained"], new["held out"])
    # what users like, and not what the crowd said of more answers than they did
    assert figures["thumb_accuracy"] > 0.75
    assert place.quarantined_by(window) == (release.id,)


def test_an_operator_lets_them_go_and_they_train_again(place: Place, window: dict[str, datasets.Member]) -> None:
    release = place.release()
    assert release is not None
    said = place.done("quarantine", "release", release.id, "--reason", "it was a game")
    assert f"{len(window)} examples" in said
    figures, members = place.train_a_reward_model()
    assert {one: members[one] for one in window} == window
    assert figures["trained_thumbs"] == dispositions(members, members)["trained"]
    assert place.up.books().counts.dispositions.get("quarantined", 0) == 0
    assert place.quarantined_by(window) == ()
    [held] = place.told("quarantine", "list")
    assert (held["in_force"], held["released_at"] is not None) == (False, True)
    acts = [(one["act"], one["target"], one["reason"]) for one in place.told("audit")]
    assert ("quarantine.release", release.id, "it was a game") in acts


def test_what_an_operator_ends_quarantines_nothing(place: Place) -> None:
    worse = place.release()
    assert worse is not None
    place.done("rollout", "start", worse.candidate_id)
    place.done("rollout", "abort", "--reason", "we know it")
    timing.until(lambda: place.release(releases.ReleaseState.NOT_PROVEN) is not None, "the release's end")
    ended = place.release()
    assert ended is not None
    assert (ended.id != worse.id, ended.candidate_id, ended.quarantine) == (True, worse.candidate_id, None)
    assert [held["release_id"] for held in place.told("quarantine", "list")] == [worse.id]
