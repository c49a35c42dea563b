"""Which Kafka the tests start: one that Maven fetched, or the one that KAFKA_HOME names."""

import pathlib

import pytest
from tests.broker import cluster


def test_an_unpacked_kafka_is_used_as_it_is(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libs").symlink_to(cluster.libraries())
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    assert cluster.libraries() == tmp_path / "libs"
    assert cluster.run_java("kafka.Kafka", "--version").startswith("4.")


def test_a_folder_without_a_kafka_is_refused_in_words(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"KAFKA_HOME is .* name an unpacked Kafka 4"):
        cluster.libraries()
