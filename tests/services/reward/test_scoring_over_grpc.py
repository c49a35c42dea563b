"""Answers are scored under the version that was named, or it is said why not."""

import asyncio
import dataclasses
import pathlib

import pytest
import torch
from tests.services.reward.conftest import LINE, Installation, item

from trimtab.core import errors, models, scoring, text
from trimtab.modeling import heads, rewards
from trimtab.wire import calls

QUESTION = "where is the setting"
ANSWERS = [f"open the menu {number} and look there" for number in range(10)]


async def ask(reward: calls.RewardCalls, model: str, *items: scoring.ScoreItem) -> scoring.ScoreResponse:
    return await reward.score(scoring.ScoreRequest(model, items))


async def test_scores_are_those_of_the_published_model(installation: Installation, weights: list[pathlib.Path]) -> None:
    model_id = installation.publish(weights[0])
    items = [item(QUESTION, answer) for answer in ANSWERS]
    async with installation.service() as reward:
        answer = await ask(reward, model_id, *items)
    expected = rewards.load_reward_model(weights[0]).score(items)
    assert answer.model_id == model_id
    assert [one.outcome for one in answer.scores] == pytest.approx([one.outcome for one in expected], abs=1e-5)
    assert len({one.outcome for one in answer.scores}) > 5


async def test_an_ensemble_says_how_unsure_it_is_and_one_head_says_nothing(
    installation: Installation, weights: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    one_head = rewards.load_reward_model(weights[0])
    drawn = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    several = dataclasses.replace(
        one_head,
        hub=rewards.Hub(pessimism=2.0),
        ensemble=heads.Heads(drawn - drawn.mean(dim=0), torch.zeros(4)),
    )
    rewards.save_reward_model(several, tmp_path / "several")
    names = installation.publish(weights[0]), installation.publish(tmp_path / "several")
    async with installation.service() as reward:
        plain, unsure = [(await ask(reward, name, item(QUESTION, ANSWERS[0]))).scores[0] for name in names]
    assert plain.uncertainty is None and isinstance(plain.outcome, float)
    assert unsure.uncertainty is not None and unsure.uncertainty > 0
    assert unsure.outcome == pytest.approx(plain.outcome - 2 * unsure.uncertainty, abs=1e-5)


async def test_requests_at_the_same_time_get_their_own_scores(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    names = [installation.publish(folder) for folder in weights[:2]]
    async with installation.service() as reward:
        alone = {
            (name, answer): (await ask(reward, name, item(QUESTION, answer))).scores[0].outcome
            for name in names
            for answer in ANSWERS
        }
        together = await asyncio.gather(*(ask(reward, name, item(QUESTION, answer)) for name, answer in alone))
    for (key, score), answer in zip(alone.items(), together, strict=True):
        assert answer.model_id == key[0]
        assert answer.scores[0].outcome == pytest.approx(score, abs=1e-4)


async def test_what_cannot_be_scored_says_why_and_is_no_zero(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    model_id = installation.publish(weights[0])
    sealed = text.Text(text.Ciphertext(b"x", "key"))
    async with installation.service() as reward:
        answer = await ask(
            reward,
            model_id,
            item(QUESTION, "   "),
            item(QUESTION, "word " * 500),
            scoring.ScoreItem(item(QUESTION, "x").prompt, sealed),
            scoring.ScoreItem((), text.Text("an answer")),
            item(QUESTION, "fine"),
        )
    *unscored, scored = [one.outcome for one in answer.scores]
    assert all(isinstance(outcome, str) and outcome for outcome in unscored)
    assert isinstance(scored, float)


async def test_a_model_that_gives_no_number_gives_a_reason(
    installation: Installation, weights: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    broken = rewards.load_reward_model(weights[0])
    broken.model.score.weight.data.fill_(float("nan"))
    rewards.save_reward_model(broken, tmp_path / "nan")
    async with installation.service() as reward:
        model_id = installation.publish(tmp_path / "nan")
        answer = await until_known(reward, model_id)
    assert isinstance(answer.scores[0].outcome, str)


async def until_known(reward: calls.RewardCalls, model: str) -> scoring.ScoreResponse:
    """Asks until the announcement has been read."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask(reward, model, item(QUESTION, "fine"))
            except errors.UnknownModel:
                await asyncio.sleep(0.05)


async def test_latest_is_the_newest_reward_model_that_passed_its_gates(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    first = installation.publish(weights[0])
    async with installation.service() as reward:
        assert (await ask(reward, f"{LINE}@latest", item(QUESTION, "x"))).model_id == first
        installation.publish(weights[1], passed=False)
        judge = installation.publish(weights[2], kind=models.ModelKind.EVALUATION_REWARD)
        assert (await until_known(reward, judge)).model_id == judge
        assert (await ask(reward, f"{LINE}@latest", item(QUESTION, "x"))).model_id == first
        newest = installation.publish(weights[3])
        await until_known(reward, newest)
        assert (await ask(reward, f"{LINE}@latest", item(QUESTION, "x"))).model_id == newest


async def test_only_so_many_models_are_held_and_all_can_be_asked(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    names = [installation.publish(folder) for folder in weights]
    async with installation.service(max_loaded=2) as reward:
        assert not any(status.loaded for status in (await reward.list_reward_models()).models)
        for name in [*names, names[0]]:
            assert (await ask(reward, name, item(QUESTION, "x"))).model_id == name
        listed = (await reward.list_reward_models()).models
    assert [status.model_id for status in listed] == names
    assert [status.model_id for status in listed if status.loaded] == [names[0], names[4]]
    digests = {name: installation.registry.manifest(name).loaded_digest for name in names}
    assert all(status.loaded_digest == digests[status.model_id] for status in listed if status.loaded)


async def test_a_model_that_is_not_known_is_refused(installation: Installation, weights: list[pathlib.Path]) -> None:
    installation.publish(weights[0])
    async with installation.service() as reward:
        for name in ("f" * 64, "other@latest", LINE):
            with pytest.raises(errors.UnknownModel):
                await ask(reward, name, item(QUESTION, "x"))


async def test_a_damaged_artifact_never_scores_and_the_status_says_so(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    good, damaged = installation.publish(weights[0]), installation.publish(weights[1])
    manifest = installation.registry.manifest(damaged)
    digest = next(file.sha256 for file in manifest.files if file.path.endswith(".safetensors"))
    blob = installation.folder / "registry" / "blobs" / "sha256" / digest
    raw = bytearray(blob.read_bytes())
    raw[-3] ^= 1
    blob.write_bytes(raw)
    async with installation.service() as reward:
        with pytest.raises(errors.ArtifactCorrupt):
            await ask(reward, damaged, item(QUESTION, "x"))
        assert (await ask(reward, good, item(QUESTION, "x"))).scores
        statuses = {status.model_id: status for status in (await reward.list_reward_models()).models}
    assert not statuses[damaged].loaded
    assert "cannot be loaded" in statuses[damaged].problem
    assert statuses[good].loaded
    assert not statuses[good].problem


async def test_a_request_carries_one_answer_at_least_and_no_more_than_allowed(
    installation: Installation, weights: list[pathlib.Path]
) -> None:
    model_id = installation.publish(weights[0])
    async with installation.service(max_items=3) as reward:
        for count in (0, 4):
            with pytest.raises(errors.InvalidField, match="items"):
                await ask(reward, model_id, *[item(QUESTION, "x")] * count)
