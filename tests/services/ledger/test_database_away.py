"""PostgreSQL stops and comes back: the ledger says so, waits, and nothing is lost or counted twice."""

import pathlib
import subprocess
import threading
import time
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests import timing
from tests.postgres import server
from tests.services.ledger.conftest import settings_at
from tests.services.ledger.test_ledger_killed import command, once, running, vote, wait_for
from tests.services.ledger.test_one_ledger_leads import joined
from tests.unit.ledger import making

from trimtab.bus import connect, port, publish, topics
from trimtab.ledger.store import tables
from trimtab.rpc import secrets
from trimtabapi.ledger.v1 import ledger_service_pb2 as pb
from trimtabapi.ledger.v1 import ledger_service_pb2_grpc

VOTES = 240  # of `vote`: a third of them twice


@pytest.fixture
def own() -> Iterator[server.Server]:
    """A server that this test may stop."""
    with server.running() as started:
        yield started


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_while_it_runs(own: server.Server, tmp_path: pathlib.Path, how: str) -> None:
    settings_of = settings_at(tmp_path, own.create()) | {"address_file": tmp_path / "address"}
    log = connect.open_log(settings_of["log_url"])
    voter = threading.Thread(target=vote, args=(log,))
    voter.start()
    with running(settings_of):
        wait_for(log, 20)
        getattr(own, how)()
        voter.join()
        code, details = await refused((tmp_path / "address").read_text(), settings_of["secrets_file"])
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "does not serve the ledger" in details.message and f"127.0.0.1:{own.port}" in details.message
        assert any(part.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for part in details.details)
        own.start()
        timing.until(lambda: len({example.id for example in once(log)}) == VOTES)
        timing.until(lambda: joined(settings_of["database"]).joined == VOTES)
    assert len(once(log)) == VOTES
    counts = joined(settings_of["database"])
    assert (counts.joined, counts.examples, counts.duplicates, counts.waiting) == (VOTES, VOTES, VOTES // 3, 0)
    log.close()


async def refused(address: str, secrets_file: pathlib.Path) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """How a question ends now, without the client's trying again."""
    token = secrets.load(secrets_file).internal_token
    async with grpc.aio.insecure_channel(address) as channel:
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        asked = pb.CountsRequest(tenant=making.TENANT, line=making.LINE)
        try:
            await stub.Counts(asked, metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        except grpc.aio.AioRpcError as problem:
            found = dict(problem.trailing_metadata() or ())["grpc-status-details-bin"]
            return problem.code(), status_pb2.Status.FromString(found)
    raise AssertionError("it answered")


def test_at_the_start(own: server.Server, tmp_path: pathlib.Path) -> None:
    settings_of = settings_at(tmp_path, own.create())
    own.stop()
    ended = subprocess.run(command(settings_of), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("ledger: ")]
    assert said.startswith(f"ledger: PostgreSQL at 127.0.0.1:{own.port}, database ")
    assert "Connection refused" in said and said.endswith("it is needed: start it, or correct `database`.")


@pytest.mark.parametrize("away", [False, True])
def test_a_database_that_was_set_back_is_filled_again(own: server.Server, tmp_path: pathlib.Path, away: bool) -> None:
    """A copy that lagged behind becomes the server: positions and effects are older, and older together."""
    url = own.create()
    settings_of = settings_at(tmp_path, url)
    log = connect.open_log(settings_of["log_url"])
    lost = [table.name for table in tables.METADATA.sorted_tables if table is not tables.LEASES]
    with running(settings_of):
        for number in range(20):
            answer_and_vote(log, number)
        wait_for(log, 20)
        timing.until(lambda: not own.ask(url, "SELECT 1 FROM outbox WHERE NOT published"))
        if away:
            own.stop()
            answer_and_vote(log, 21)
            time.sleep(1.5)  # noticed
            own.start()
        own.ask(url, f"TRUNCATE {', '.join(lost)}")
        answer_and_vote(log, 20)
        timing.until(lambda: joined(url).joined == 21 + away)
        wait_for(log, 21 + away)
    kept = once(log)
    assert len(kept) == len({example.id for example in kept}) == 21 + away
    assert (joined(url).completions, joined(url).duplicates) == (21 + away, 0)
    log.close()


def answer_and_vote(log: port.EventLog, number: int) -> None:
    answer = making.completion(f"s{number}", number)
    publish.publish(log, topics.COMPLETIONS, answer.context.session_hash, answer).result()
    publish.publish(log, topics.FEEDBACK, answer.context.session_hash, making.thumb(answer)).result()
