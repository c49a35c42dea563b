"""A platform that a released version began: `trimtab up` of today goes on with its log, its keys, its policy."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator

import apsw
import pytest
from tests.faults import reading
from tests.integration.loop import living
from tests.integration.upgrade import recorded

import trimtab_client
from trimtab.bus import connect, topics
from trimtab.core import completions, releases, runs
from trimtab.rpc import secrets

pytestmark = pytest.mark.slow
_SKY = "Why is the sky blue?"


@dataclasses.dataclass(frozen=True)
class Upgraded:
    """A platform of today on a recorded state folder. key, answers: as they stood there, the oldest answer first."""

    recording: recorded.Recording
    up: living.Up
    key: str
    answers: list[completions.Completion]


@pytest.fixture(scope="module", params=recorded.ALL, ids=lambda recording: recording.version)
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    recording: recorded.Recording = request.param
    folder = tmp_path_factory.mktemp("upgraded")
    layout = recording.unpack(folder)
    with contextlib.closing(connect.open_log(layout.log_url)) as log:
        answers = reading.decoded(log, topics.COMPLETIONS, completions.Completion)
    served = [one for one in answers if one.origin is completions.Origin.SERVED and one.context.store]
    up = living.Up(folder)
    try:
        up.start()
        key = secrets.local_api_key(layout.secrets)
        yield Upgraded(recording, up, key, sorted(served, key=lambda one: one.created_at))
    finally:
        up.destroy()


def test_books_go_on_with_an_old_answer_and_a_new_one(upgraded: Upgraded) -> None:
    before = upgraded.up.books()
    known = recorded.known_then(upgraded.recording, recorded.plain(before.counts))
    assert known == upgraded.recording.golden["counts"]
    [promoted, _] = upgraded.up.history()
    with trimtab_client.Trimtab(upgraded.up.address(), api_key=upgraded.key, line=living.LINE) as app:
        app.feedback.thumb(upgraded.answers[0].id, up=True, id="later", rater="somebody else")
        answer = app.chat(_SKY)
    assert promoted.state is releases.ReleaseState.PROMOTED
    assert answer.policy_id == promoted.candidate_id
    # the policy is the same, weight for weight, so it says the same
    old = next(one for one in upgraded.answers if one.policy_id == answer.policy_id and _asked(one) == _SKY)
    assert answer.text == old.responses[0].text.read()
    after = upgraded.up.books().counts
    assert after.completions == before.counts.completions + 1
    assert after.feedback == before.counts.feedback + 1
    assert after.joined == before.counts.joined + 1
    assert after.examples == before.counts.examples + 1
    [given] = upgraded.up.trace("later").completions
    assert given == upgraded.answers[0]


def test_what_was_trained_and_released_is_on_record(upgraded: Upgraded) -> None:
    assert upgraded.up.api_key() == upgraded.key
    for kind in (runs.RunKind.REWARD, runs.RunKind.SFT):
        [run] = upgraded.up.runs(kind)
        assert run.state is runs.RunState.SUCCEEDED
    [promoted, first] = upgraded.up.history()
    assert promoted.stable_id == first.candidate_id
    [reward] = upgraded.up.runs(runs.RunKind.REWARD)
    assert {one.dataset_id for one in upgraded.up.trace("thumb-1").datasets} == {reward.spec.dataset_id}
    terminal = living.Terminal(upgraded.up)
    [audited] = terminal.told("rollout", "audit")
    assert audited["equal"] is True


def _asked(answer: completions.Completion) -> str:
    return answer.prompt[-1].content.read()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("log.sqlite", "The event log .* is of version 99, and this program reads up to"),
        ("ledger.sqlite", "The ledger's database .* has tables of version 99, and this ledger knows up to"),
        ("trainer/trainer.db", "The trainer's database .* is of version 99, and this trainer knows up to"),
    ],
)
def test_a_folder_that_a_newer_version_wrote_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path, file: str, said: str
) -> None:
    layout = recorded.ALL[-1].unpack(tmp_path)
    with contextlib.closing(apsw.Connection(str(layout.state / file))) as database:
        database.pragma("user_version", 99)
    before = (layout.state / file).read_bytes()
    refused = living.trimtab("up", "--state", str(layout.state), "--port", "0", "--grpc-port", "0")
    assert refused.returncode == 1
    assert re.search(f"{said}.*: start the version that (wrote it|made them), or one that came after", refused.stderr)
    assert (layout.state / file).read_bytes() == before
    assert not layout.logs.exists(), "no process was started"
