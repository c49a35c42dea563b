"""Clusters under a prefix of the test's own, and logs on them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest
from tests.broker import shared

from trimtab.bus import kafka


@pytest.fixture
def fresh(kafka_address: str) -> Iterator[kafka.Cluster]:
    """On the broker that tests share; without topics."""
    with shared.own(kafka_address) as made:
        yield made


@pytest.fixture
def opened() -> Iterator[Callable[..., kafka.KafkaLog]]:
    """Opens logs on a cluster with other settings than its own, e.g. another deadline; closed with the test."""
    with contextlib.ExitStack() as stack:

        def open_log(cluster: kafka.Cluster, **other: object) -> kafka.KafkaLog:
            log = kafka.KafkaLog(dataclasses.replace(cluster, **other))  # type: ignore[arg-type]
            stack.callback(log.close)
            return log

        yield open_log
