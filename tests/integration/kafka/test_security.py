"""TLS and SASL against a broker that asks for them: who is let in, and what the others are told."""

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import UserScramCredentialUpsertion
from tests import timing
from tests.broker import certificates, cluster

from trimtab.bus import connect, kafka, port
from trimtab.bus.security import Security
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import health, secrets, settings

USER, PASSWORD = "trimtab", "correct horse"
# Who is let in, and may nothing.
GUEST = "guest"
DEADLINE_S = 12.0
MODELS = port.TopicPartition("models", 0)


class Secured:
    """A broker with three doors. SASL_SSL: users with a password, and a certificate if they like. MUTUAL: TLS, with a
    certificate. STALE: as the first, and its own certificate has expired."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.authority = certificates.Authority(folder / "authority")
        self.ours = self.authority.sign("client")
        self.expired = self.authority.sign("expired-client", days=-1)
        self.foreign = certificates.Authority(folder / "another")
        good, stale = self.authority.sign("broker"), self.authority.sign("stale-broker", days=-1)
        self.settings = {
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:CN=client;User:{USER}",
        }
        self.settings |= self._door("listener.name.sasl_ssl.", good, "requested")
        self.settings |= self._door("listener.name.mutual.", good, "required")
        self.settings |= self._door("listener.name.stale.", stale, "none")

    def _door(self, start: str, signed: certificates.Signed, asks: str) -> dict[str, str]:
        module = "org.apache.kafka.common.security"
        users = " ".join(f'user_{name}="{PASSWORD}"' for name in (USER, GUEST))
        return {
            f"{start}ssl.keystore.type": "PEM",
            f"{start}ssl.keystore.location": str(signed.both),
            f"{start}ssl.truststore.type": "PEM",
            f"{start}ssl.truststore.location": str(self.authority.certificate),
            f"{start}ssl.client.auth": asks,
            f"{start}plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule required {users};",
            f"{start}scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        }

    def security(self, **other: Any) -> Security:
        known = {"mechanism": "SCRAM-SHA-512", "username": USER, "password": PASSWORD}
        return Security(**{"protocol": "SASL_SSL", "ca_file": self.authority.certificate, **known, **other})

    def mutual(self, signed: certificates.Signed | None) -> Security:
        files = {"cert_file": signed.certificate, "key_file": signed.key} if signed else {}
        return Security(protocol="SSL", ca_file=self.authority.certificate, **files)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    return Secured(tmp_path_factory.mktemp("secured"))


@pytest.fixture(scope="module")
def broker(secured: Secured) -> Iterator[cluster.Cluster]:
    doors = {"SASL_SSL": "SASL_SSL", "MUTUAL": "SSL", "STALE": "SASL_SSL"}
    with cluster.running(settings=secured.settings, doors=doors) as started:
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=started.address)) as admin:
            admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, "SCRAM-SHA-512", PASSWORD)])
        kafka.create_topics(kafka.Cluster((started.address,)))
        yield started


def refusal(ask: Callable[[kafka.KafkaLog], object], reached: kafka.Cluster) -> str:
    """What a client says that does not get in, within the deadline."""
    with contextlib.closing(kafka.KafkaLog(reached)) as log:
        begun = time.monotonic()
        with pytest.raises(errors.LogUnavailable) as problem:
            ask(log)
        assert time.monotonic() - begun < DEADLINE_S + timing.SLACK_S
    return str(problem.value)


def poll(log: kafka.KafkaLog) -> None:
    with contextlib.closing(log.reader({MODELS: 0})) as reader:
        reader.poll(1, 0.0)


def append(log: kafka.KafkaLog) -> None:
    log.append([port.NewRecord("models", b"k", b"v")]).result()


def look(log: kafka.KafkaLog) -> None:
    log.end_offsets("models")


def make_topics(reached: kafka.Cluster, _log: kafka.KafkaLog) -> None:
    kafka.create_topics(reached)


@pytest.fixture(scope="module")
def said(secured: Secured, broker: cluster.Cluster) -> dict[str, list[str]]:
    """By what is wrong: what each kind of client says, who writes, reads, looks and makes topics."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it has much to say about what is meant to fail
    inside, mutual, stale = (broker.door(name) for name in ("SASL_SSL", "MUTUAL", "STALE"))
    wrong = {
        "password": (inside, secured.security(password="not this one")),
        "guest": (inside, secured.security(mechanism="PLAIN", username=GUEST)),
        "mechanism": (inside, secured.security(mechanism="SCRAM-SHA-256")),
        "stale broker": (stale, secured.security()),
        "foreign broker": (inside, secured.security(ca_file=secured.foreign.certificate)),
        "expired client": (mutual, secured.mutual(secured.expired)),
        "no certificate": (mutual, secured.mutual(None)),
        "TLS to a plain door": (broker.address, secured.security()),
        "plain to a TLS door": (inside, Security()),
    }
    waiting: dict[str, list[concurrent.futures.Future[str]]] = {}
    with concurrent.futures.ThreadPoolExecutor(11) as pool:  # more would keep each other from being told in time
        for what, (address, security) in wrong.items():
            reached = kafka.Cluster((address,), security=security, deadline_s=DEADLINE_S)
            clients = [append, poll]
            if what in ("password", "stale broker"):
                clients += [look, functools.partial(make_topics, reached)]
            waiting[what] = [pool.submit(refusal, client, reached) for client in clients]
    return {what: [one.result() for one in each] for what, each in waiting.items()}


def comes_through(address: str, security: Security) -> bool:
    reached = kafka.Cluster((address,), security=security)
    with contextlib.closing(kafka.KafkaLog(reached)) as log:
        [position] = log.append([port.NewRecord("models", b"k", b"v")]).result()
        with contextlib.closing(log.reader({MODELS: position.offset})) as reader:
            [record] = reader.poll(1, 5.0)
    return (record.offset, record.value) == (position.offset, b"v") and kafka.create_topics(reached) == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_who_has_the_password_gets_in(mechanism: str, secured: Secured, broker: cluster.Cluster) -> None:
    assert comes_through(broker.door("SASL_SSL"), secured.security(mechanism=mechanism))


def test_who_has_a_certificate_gets_in(secured: Secured, broker: cluster.Cluster) -> None:
    assert comes_through(broker.door("MUTUAL"), secured.mutual(secured.ours))
    own = {"cert_file": secured.ours.both}  # the key stands in the same file
    assert comes_through(broker.door("SASL_SSL"), secured.security(**own))


def test_a_wrong_password_is_told_with_user_and_place(said: dict[str, list[str]], broker: cluster.Cluster) -> None:
    for sentence in said["password"]:
        assert f"{broker.door('SASL_SSL')} does not let user 'trimtab' in by SCRAM-SHA-512 (" in sentence
        assert "TRIMTAB_KAFKA_USERNAME" in sentence
        assert "not this one" not in sentence


def test_a_mechanism_that_the_broker_has_not_is_told(said: dict[str, list[str]], broker: cluster.Cluster) -> None:
    for sentence in said["mechanism"]:
        assert broker.door("SASL_SSL") in sentence
        assert "TRIMTAB_KAFKA_SASL_MECHANISM" in sentence


def test_a_user_who_may_not_is_told_so(said: dict[str, list[str]], secured: Secured, broker: cluster.Cluster) -> None:
    for sentence in said["guest"]:
        assert f"models on {broker.door('SASL_SSL')} is not for user 'guest'" in sentence
    guest = secured.security(mechanism="PLAIN", username=GUEST)
    with pytest.raises(errors.WrongState, match="does not let user 'guest' describe and describe-configs our topics"):
        kafka.create_topics(kafka.Cluster((broker.door("SASL_SSL"),), security=guest))


def test_a_certificate_of_the_broker_that_has_expired_is_told(
    said: dict[str, list[str]], broker: cluster.Cluster
) -> None:
    for sentence in said["stale broker"]:
        assert f"the certificate of {broker.door('STALE')} is not accepted (certificate has expired" in sentence


def test_a_broker_that_somebody_else_vouches_for_is_told(
    said: dict[str, list[str]], broker: cluster.Cluster, secured: Secured
) -> None:
    for sentence in said["foreign broker"]:
        assert f"the certificate of {broker.door('SASL_SSL')} is not accepted (" in sentence
        assert str(secured.foreign.certificate) in sentence


def test_our_own_certificate_that_has_expired_or_is_missing_is_told(
    said: dict[str, list[str]], broker: cluster.Cluster, secured: Secured
) -> None:
    for sentence in said["expired client"]:
        assert f"{broker.door('MUTUAL')} does not accept our certificate" in sentence
        assert str(secured.expired.certificate) in sentence
    for sentence in said["no certificate"]:
        assert f"{broker.door('MUTUAL')} does not accept our certificate" in sentence
        assert "TRIMTAB_KAFKA_CERT_FILE" in sentence


def test_a_protocol_that_is_not_spoken_at_a_door_is_told(said: dict[str, list[str]], broker: cluster.Cluster) -> None:
    for sentence in said["TLS to a plain door"]:
        assert f"{broker.address} speaks no TLS" in sentence
    for sentence in said["plain to a TLS door"]:
        assert f"{broker.door('SASL_SSL')} takes the connection and does not answer" in sentence
        assert "TRIMTAB_KAFKA_SECURITY_PROTOCOL than PLAINTEXT" in sentence


@pytest.fixture
def told(
    secured: Secured, broker: cluster.Cluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> platform.Layout:
    """A state folder on the broker with SASL, in an environment that says how to get in."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    monkeypatch.setenv("TRIMTAB_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("TRIMTAB_KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("TRIMTAB_KAFKA_USERNAME", USER)
    monkeypatch.setenv("TRIMTAB_KAFKA_PASSWORD_FILE", str(password))
    monkeypatch.setenv("TRIMTAB_KAFKA_CA_FILE", str(secured.authority.certificate))
    layout = platform.Layout(tmp_path / "state")
    layout.choose_log(f"kafka://{broker.door('SASL_SSL')}/by-environment.")
    return layout


def test_commands_are_told_by_the_environment(told: platform.Layout) -> None:
    with contextlib.closing(told.open_log()) as log:
        assert sum(log.end_offsets("models").values()) == 0
    assert connect.create_topics(told.log_url, settings.log_security()) == []


def serves(address: pathlib.Path) -> bool:
    return address.exists() and asyncio.run(health.is_serving(address.read_text(), timeout_s=2.0))


def test_a_process_is_told_by_the_environment_it_inherits(told: platform.Layout, tmp_path: pathlib.Path) -> None:
    told.lines.write_text("[lines.main]\n")
    secrets.create(told.secrets, "acme")
    address = tmp_path / "address"
    flags = ("--database", f"sqlite:///{tmp_path}/ledger.db", "--listen", "127.0.0.1:0", "--address-file", str(address))
    command = (sys.executable, "-m", "trimtab.cli.app", "ledger", *flags)
    with subprocess.Popen(command, env=os.environ | told.environment(), stderr=subprocess.PIPE, text=True) as ledger:
        try:
            give_up_at = time.monotonic() + 60
            while not serves(address):  # which it does when it has read the log
                assert ledger.poll() is None and time.monotonic() < give_up_at
                time.sleep(0.1)
        finally:
            ledger.terminate()
            said = ledger.communicate(timeout=30)[1]
    assert PASSWORD not in said
    assert '"kafka_username": "trimtab"' in said
