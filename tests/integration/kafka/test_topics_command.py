"""`trimtab topics`: what a cluster has otherwise than it has to be, and how it is made so."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource
from tests import timing

from trimtab.bus import kafka, topics
from trimtab.cli.commands import root
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import ports


class Command:
    """`trimtab topics` on the topics of one test."""

    def __init__(self, cluster: kafka.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = f"kafka://{cluster.servers[0]}/{cluster.prefix}"
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and what it said."""
        with pytest.raises(SystemExit) as ended:
            root.run(["topics", *arguments, "--log", self.url])
        captured = self._capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err


@pytest.fixture
def run(fresh: kafka.Cluster, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(fresh, capsys)


@pytest.fixture
def admin(fresh: kafka.Cluster) -> Iterator[KafkaAdminClient]:
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=list(fresh.servers))) as made:
        yield made


def forget(admin: KafkaAdminClient, name: str) -> None:
    admin.delete_topics([name])
    timing.until(lambda: name not in admin.list_topics(), "the deletion")


def test_an_empty_cluster_lacks_every_topic_and_one_apply_later_none(run: Command) -> None:
    code, said = run("diff", "--json")
    assert code == 1
    assert {one["topic"].split(".")[1] for one in json.loads(said)} == set(topics.ALL)
    code, said = run("apply")
    assert (code, said.count("created")) == (0, len(topics.ALL))
    assert run("diff") == (0, "no difference: 9 topics are as they have to be\n")
    assert run("diff", "--json") == (0, "[]\n")
    assert run("apply") == (0, "nothing to do: 9 topics are as they have to be\n")


def test_a_setting_that_somebody_changed_is_shown_and_put_right(
    run: Command, fresh: kafka.Cluster, admin: KafkaAdminClient
) -> None:
    run("apply")
    name = f"{fresh.prefix}audit"
    admin.alter_configs([ConfigResource("topic", name, {"retention.ms": "1000", "segment.ms": "86400000"})])
    timing.until(lambda: run("diff")[0] == 1, "the difference")
    code, said = run("diff", "--json")
    assert code == 1
    assert json.loads(said) == [{"topic": name, "what": "retention.ms", "wanted": "-1", "found": "1000", "refused": ""}]
    code, said = run("diff")
    assert (code, said.count(name)) == (1, 1)
    code, said = run("apply")
    assert (code, "altered" in said) == (0, True)
    assert run("diff")[0] == 0
    own = admin.describe_configs([ConfigResource("topic", name)])["topic"][name]
    assert own["segment.ms"]["value"] == "86400000"  # what we say nothing about stays


def test_another_number_of_partitions_stays_and_is_an_error_in_words(
    run: Command, fresh: kafka.Cluster, admin: KafkaAdminClient
) -> None:
    admin.create_topics(
        {f"{fresh.prefix}examples": {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True
    )
    code, said = run("apply")
    words = " ".join(said.split())
    assert code == 1
    assert f"{fresh.prefix}examples partitions 2 8 stays: their number never changes" in words
    assert said.count("created") == len(topics.ALL) - 1
    code, said = run("diff", "--json")
    assert (code, [one["what"] for one in json.loads(said)]) == (1, ["partitions"])


def test_replicas_that_one_broker_cannot_hold_are_refused_in_words(run: Command) -> None:
    code, said = run("apply", "--replicas", "30")
    assert code == 1
    assert "does not create topics with 30 replicas" in said
    assert said.count("\n") == 1


def test_a_cluster_that_is_away_is_one_sentence_with_its_address(run: Command) -> None:
    number = ports.free_port()
    run.url = f"kafka://127.0.0.1:{number}"
    code, said = run("diff")
    assert (code, said.count("\n")) == (1, 1)
    assert f"127.0.0.1:{number} cannot be reached (Connection refused)" in said


def test_the_embedded_log_has_no_topics_to_make(run: Command, tmp_path: pathlib.Path) -> None:
    run.url = f"sqlite://{tmp_path / 'log.db'}"
    code, said = run("diff")
    assert (code, "makes its topics itself" in said) == (1, True)


def test_a_folder_that_follows_from_a_cluster_gets_a_topic_that_is_new(
    run: Command, fresh: kafka.Cluster, admin: KafkaAdminClient, tmp_path: pathlib.Path
) -> None:
    layout = platform.Layout(tmp_path)
    layout.choose_log(run.url)
    forget(admin, f"{fresh.prefix}scores")
    platform.Layout(tmp_path).make_topics()
    assert run("diff")[0] == 0
    forget(admin, f"{fresh.prefix}scores")
    one = {"num_partitions": 1, "replication_factor": 1}
    admin.create_topics({f"{fresh.prefix}scores": one}, wait_for_metadata=True)
    with pytest.raises(errors.WrongState, match="scores on the cluster: partitions is 1 and has to be 8"):
        layout.make_topics()
