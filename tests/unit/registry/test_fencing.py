"""A writer that lost its lease cannot publish after its successor."""

import concurrent.futures
import dataclasses
import fcntl

import pytest

from trimtab import registry
from trimtab.core import errors
from trimtab.registry import fence


def _publish(store, model_folder, draft, generation, method="sft"):
    return store.publish(model_folder, dataclasses.replace(draft, generation=generation, method=method))


def test_a_lower_generation_is_fenced_off_and_publishes_nothing(store, model_folder, draft):
    _publish(store, model_folder, draft, 5)
    with pytest.raises(errors.StaleGeneration, match="5 has published"):
        _publish(store, model_folder, draft, 4, method="late")
    assert [manifest.method for manifest in store.list()] == ["sft"]


def test_the_same_generation_publishes_on(store, model_folder, draft):
    _publish(store, model_folder, draft, 5)
    _publish(store, model_folder, draft, 5, method="ppo")
    assert len(store.list()) == 2


def test_generations_count_per_tenant_and_line(store, model_folder, draft):
    _publish(store, model_folder, draft, 5)
    _publish(store, model_folder, dataclasses.replace(draft, line="sales"), 1)
    _publish(store, model_folder, dataclasses.replace(draft, tenant="other"), 1)
    assert len(store.list()) == 3


def test_an_operators_import_is_never_fenced(store, model_folder, draft):
    _publish(store, model_folder, draft, 5)
    _publish(store, model_folder, draft, 0, method="import")
    assert len(store.list()) == 2


def test_what_was_seen_outlives_the_process(store, model_folder, draft, tmp_path):
    _publish(store, model_folder, draft, 5)
    other = registry.Registry(f"file://{tmp_path}/registry", tmp_path / "other-cache")
    with pytest.raises(errors.StaleGeneration):
        _publish(other, model_folder, draft, 1, method="late")


def test_racing_writers_never_lower_the_fence(store, model_folder, draft, tmp_path):
    def attempt(generation: int) -> bool:
        try:
            _publish(store, model_folder, draft, generation, method=f"g{generation}")
        except errors.StaleGeneration:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = dict(zip(range(1, 25), pool.map(attempt, range(1, 25)), strict=True))
    assert outcomes[24]
    assert (tmp_path / "registry" / "generations" / "acme" / "support").read_text() == "24"
    assert {manifest.generation for manifest in store.list()} == {g for g, passed in outcomes.items() if passed}


def test_a_writer_is_fenced_off_by_one_that_published_while_it_copied(store, model_folder, draft, monkeypatch):
    def overtaken(path, file, put=store._put_blob):
        monkeypatch.setattr(store, "_put_blob", put)
        _publish(store, model_folder, draft, 5, method="newer")
        put(path, file)

    monkeypatch.setattr(store, "_put_blob", overtaken)
    with pytest.raises(errors.StaleGeneration, match="5 has published"):
        _publish(store, model_folder, draft, 4, method="late")
    assert [manifest.method for manifest in store.list()] == ["newer"]


def test_a_writer_that_is_paused_in_its_turn_is_named_to_who_comes_after(
    store, model_folder, draft, tmp_path, monkeypatch
):
    monkeypatch.setattr(fence, "_TURN_WITHIN_S", 0.1)
    _publish(store, model_folder, draft, 5)
    with (tmp_path / "registry" / "generations" / "acme" / "support.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with pytest.raises(errors.ServiceUnavailable, match=r"Another process has been publishing under .*support"):
            _publish(store, model_folder, draft, 6, method="waits")
    _publish(store, model_folder, draft, 6, method="waits")
    assert len(store.list()) == 2


@pytest.mark.parametrize("name", ["", "../other", "a/b", ".hidden"])
def test_a_line_cannot_name_a_place_outside_its_tenant(store, model_folder, draft, name):
    with pytest.raises(errors.InvalidField, match="line"):
        _publish(store, model_folder, dataclasses.replace(draft, line=name), 1)
