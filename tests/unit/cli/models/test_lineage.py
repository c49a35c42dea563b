"""The family of a model, from the registry alone."""

import asyncio
import json
import pathlib
from typing import Any

import pytest

from trimtab import registry
from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.cli.models import lineage
from trimtab.core import errors, models

Kind = models.ModelKind


class Shelf:
    """A state folder whose registry holds what a test puts there."""

    def __init__(self, state: pathlib.Path) -> None:
        self.layout = platform.Layout(state)
        self.layout.lines.write_text('[lines.main]\ntenant = "local"\n')
        self.store = registry.Registry(self.layout.registry_url, self.layout.cache)
        self._made = 0

    def put(self, kind: Kind, run: str = "", settings: dict[str, Any] | None = None, **spec: str) -> str:
        """Publishes a model with the record of its run; its id."""
        self._made += 1
        folder = self.layout.state / f"made-{self._made}"
        folder.mkdir()
        (folder / "card.json").write_text(str(self._made))
        ids = {field: value for field, value in spec.items() if field.endswith("_id")}
        dataset = ids.get("dataset_id")
        return self.store.publish(
            folder,
            registry.ManifestDraft(
                kind=kind,
                tenant="local",
                line="main",
                method="file" if kind is Kind.DATASET else "sft" if run else "imported",
                parents=tuple(dict.fromkeys(value for field, value in ids.items() if field != "dataset_id")),
                datasets=(dataset,) if dataset else (),
                run_id=run,
                settings=settings or ({"started": {"spec": spec}} if spec else {}),
            ),
        ).id


@pytest.fixture
def shelf(tmp_path: pathlib.Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def family(shelf: Shelf) -> dict[str, str]:
    """A base, a policy from demonstrations, a reward model on feedback, a candidate of all three."""
    card = {"card": {"dispositions": {"trained": 1200, "held out": 34, "rejected": 0}}}
    ids = {"base": shelf.put(Kind.BASE), "data": shelf.put(Kind.DATASET, settings=card)}
    ids["policy"] = shelf.put(Kind.POLICY, "run-a", parent_id=ids["base"], dataset_id=ids["data"], label="first")
    ids["reward"] = shelf.put(Kind.REWARD, "run-b", parent_id=ids["policy"], dataset_id=ids["data"])
    ids["candidate"] = shelf.put(
        Kind.POLICY, "run-c", parent_id=ids["policy"], reference_id=ids["policy"], reward_id=ids["reward"]
    )
    return ids


def lines(twig: show.Twig, depth: int = 0) -> list[str]:
    return ["  " * depth + twig.words, *(line for other in twig.twigs for line in lines(other, depth + 1))]


def test_a_tree_goes_back_to_the_base_and_tells_each_thing_once(shelf: Shelf, family: dict[str, str]) -> None:
    short = {name: model_id[:12] for name, model_id in family.items()}
    told = lines(lineage.tree(lineage.Family(shelf.store.list()), family["candidate"], []))
    assert told == [
        f"policy {short['candidate']}",
        "  made from",
        "    run-c, sft",
        f"      weights from and anchored to policy {short['policy']}",
        "        run-a, sft “first”",
        f"          weights from base {short['base']}, imported",
        f"          trained on data set {short['data']} (of a file: 1,200 trained, 34 held out)",
        f"      rewarded by reward model {short['reward']}",
        "        run-b, sft",
        f"          weights from policy {short['policy']} (see above)",
        f"          trained on data set {short['data']} (of a file: 1,200 trained, 34 held out) (see above)",
    ]


def test_a_tree_goes_forward_to_everything_made_of_a_data_set(shelf: Shelf, family: dict[str, str]) -> None:
    short = {name: model_id[:12] for name, model_id in family.items()}
    told = lines(lineage.tree(lineage.Family(shelf.store.list()), family["data"], []))
    assert told[1:] == [
        "  went into",
        "    run-a, sft “first”, trained on it",
        f"      policy {short['policy']}",
        "        run-b, sft, weights from it",
        f"          reward model {short['reward']}",
        "            run-c, sft, rewarded by it",
        f"              policy {short['candidate']}",
        "        run-c, sft, weights from and anchored to it",
        f"          policy {short['candidate']} (see above)",
        "    run-b, sft, trained on it",
        f"      reward model {short['reward']} (see above)",
    ]


def test_a_program_gets_every_link(shelf: Shelf, family: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(lineage.lineage(shelf.layout.state, family["policy"][:8], as_json=True))
    said = json.loads(capsys.readouterr().out)
    assert said["model"]["id"] == family["policy"]
    assert {one["id"] for one in said["ancestors"]} == {family["base"], family["data"]}
    assert {one["id"] for one in said["descendants"]} == {family["reward"], family["candidate"]}
    assert said["releases"] is None
    link = {"made": family["candidate"], "source": family["policy"], "run": "run-c"}
    assert link | {"roles": ["weights from", "anchored to"]} in said["links"]


def test_people_are_told_where_releases_are_when_nothing_runs(
    shelf: Shelf, family: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(lineage.lineage(shelf.layout.state, family["base"][:10], as_json=False))
    said = capsys.readouterr().out
    assert said.startswith(f"base {family['base'][:12]}, imported")
    assert "└── went into" in said
    assert "while the platform runs" in said


def test_models_without_the_record_of_their_run_are_told_by_their_kind(shelf: Shelf) -> None:
    base, judge = shelf.put(Kind.BASE), shelf.put(Kind.EVALUATION_REWARD)
    policy = shelf.put(Kind.POLICY, "run-x", {"seed": 1}, parent_id=base, evaluation_reward_id=judge)
    [weights, judged] = lineage.Family(shelf.store.list()).sources(policy)
    assert (weights.source, weights.roles) == (base, ("weights from",))
    assert (judged.source, judged.roles) == (judge, ("judged by",))


def test_a_beginning_of_nothing_and_of_many_are_sentences(shelf: Shelf, family: dict[str, str]) -> None:
    with pytest.raises(errors.NotFound, match="no model 'xyz'"):
        asyncio.run(lineage.lineage(shelf.layout.state, "xyz", as_json=False))
    with pytest.raises(errors.InvalidField, match=f"begins {len(family)} ids; give more of it"):
        asyncio.run(lineage.lineage(shelf.layout.state, "", as_json=False))
