"""A Kafka that is away for longer than anybody waits, with records under way, is found again once it is back."""

import contextlib
import dataclasses
import threading
import time

import pytest
from tests import timing
from tests.broker import cluster

from trimtab.bus import kafka, port
from trimtab.core import errors
from trimtab.rpc import ports

DEADLINE_S = 2.0
RECOVERY_S = 10.0


def append(log: kafka.KafkaLog, number: int) -> bool:
    """Whether the record was taken."""
    try:
        log.append([port.NewRecord("feedback", str(number).encode(), b"x")]).result()
    except errors.LogUnavailable:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_appends_are_taken_again_soon_after_the_cluster_is_back(how: str) -> None:
    with cluster.running() as broker:
        there = kafka.Cluster(tuple(broker.address.split(",")))
        kafka.create_topics(there)
        log = kafka.KafkaLog(dataclasses.replace(there, deadline_s=DEADLINE_S))
        [node] = broker.nodes
        with contextlib.closing(log):
            timing.until(lambda: append(log, 0), "the first record")
            over = threading.Event()
            others = [
                threading.Thread(target=lambda: [append(log, 1) for _ in iter(over.is_set, True)]) for _ in "abcd"
            ]
            for one in others:
                one.start()
            node.pause()
            time.sleep(4 * DEADLINE_S)
            if how == "killed":
                node.kill()
                node.start()
                node.await_ready()
            else:
                node.resume()
            took = timing.until(lambda: append(log, 2), "a record")
            over.set()
            for one in others:
                one.join()
        assert took < RECOVERY_S


def test_an_append_to_a_cluster_that_is_away_has_its_answer_within_the_deadline() -> None:
    nobody = ports.free_port()
    log = kafka.KafkaLog(kafka.Cluster((f"127.0.0.1:{nobody}",), deadline_s=DEADLINE_S))
    took: list[float] = []
    with contextlib.closing(log):
        for number in range(8):
            begun = time.monotonic()
            waiting = log.append([port.NewRecord("feedback", str(number).encode(), b"x")])
            waiting.add_done_callback(lambda _, begun=begun: took.append(time.monotonic() - begun))  # type: ignore[misc]
            time.sleep(0.25)
        timing.until(lambda: len(took) == 8, "every answer")
    assert max(took) < DEADLINE_S + timing.SLACK_S
