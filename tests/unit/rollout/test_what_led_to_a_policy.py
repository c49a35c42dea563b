"""What goes into quarantine follows from how a policy was made; what was not users' feedback does not."""

import datetime
import pathlib

import pytest

from trimtab import registry
from trimtab.bus import port, topics
from trimtab.core import models, text
from trimtab.rollout import shelf
from trimtab.wire import schemas

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
POLICY, DATASET, REWARD = models.ModelKind.POLICY, models.ModelKind.DATASET, models.ModelKind.REWARD


@pytest.fixture
def known(tmp_path: pathlib.Path) -> shelf.Shelf:
    return shelf.Shelf(registry.Registry(f"file://{tmp_path}/registry", tmp_path / "cache"))


def publish(known: shelf.Shelf, name: str, kind: models.ModelKind, seconds: float, **more: object) -> None:
    line = str(more.pop("line", "support"))
    at = NOW + datetime.timedelta(seconds=seconds)
    model = models.PublishedModel(name, text.Context("acme", line), kind, at, **more)  # type: ignore[arg-type]
    value, headers = schemas.encode(model)
    known.apply(port.Record(topics.MODELS.name, 0, 0, NOW, name.encode(), value, headers))


def cycle(known: shelf.Shelf, number: int, **policy: object) -> None:
    """A data set, a reward model and a policy."""
    publish(known, f"data-{number}", DATASET, number, method="cut")
    publish(known, f"reward-{number}", REWARD, number + 0.1, datasets=(f"data-{number}",))
    parents = ("anchor", f"reward-{number}", f"judge-{number}")
    more = {"parents": parents, "datasets": (f"data-{number}",)} | policy
    publish(known, f"policy-{number}", POLICY, number + 0.2, **more)


async def test_the_window_begins_where_the_line_s_last_policy_ended(known: shelf.Shelf) -> None:
    publish(known, "anchor", POLICY, 0, datasets=("demonstrations",))
    publish(known, "demonstrations", DATASET, 0, method="file")
    for number in (1, 2, 3):
        cycle(known, number)
    found = await known.led_to("policy-2", NOW)
    assert (found.dataset_id, found.previous_dataset_id, found.reward_ids) == ("data-2", "data-1", ("reward-2",))
    assert found.summary == "Quarantined: what data set data-2 added to data-1 and reward model reward-2."
    assert found.in_force
    first = await known.led_to("policy-1", NOW)
    assert (first.dataset_id, first.previous_dataset_id) == ("data-1", "")


async def test_a_refused_policy_and_another_line_s_do_not_move_the_beginning(known: shelf.Shelf) -> None:
    cycle(known, 1)
    cycle(known, 2, passed=False)
    cycle(known, 3, line="sales")
    cycle(known, 4)
    assert (await known.led_to("policy-4", NOW)).previous_dataset_id == "data-1"


async def test_a_policy_from_demonstrations_has_no_window_and_says_so(known: shelf.Shelf) -> None:
    publish(known, "fawning", DATASET, 1, method="file")
    publish(known, "judge", models.ModelKind.EVALUATION_REWARD, 1)
    publish(known, "planted", POLICY, 2, parents=("anchor", "judge"), datasets=("fawning",))
    found = await known.led_to("planted", NOW)
    assert (found.dataset_id, found.reward_ids, found.in_force) == ("", (), False)
    assert found.summary.startswith("Nothing is quarantined")


async def test_of_a_policy_trained_on_an_imported_file_against_a_reward_model_only_that_is_quarantined(
    known: shelf.Shelf,
) -> None:
    publish(known, "prompts", DATASET, 1, method="file")
    publish(known, "reward", REWARD, 1)
    publish(known, "policy", POLICY, 2, parents=("anchor", "reward"), datasets=("prompts",))
    found = await known.led_to("policy", NOW)
    assert (found.dataset_id, found.reward_ids, found.in_force) == ("", ("reward",), True)
    assert "no examples" in found.summary


async def test_a_policy_that_nobody_knows_any_more_quarantines_nothing(known: shelf.Shelf) -> None:
    assert not (await known.led_to("f" * 64, NOW)).in_force
