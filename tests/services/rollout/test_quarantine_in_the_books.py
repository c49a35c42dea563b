"""From votes on a canary to the books: what led to a policy that users found worse counts as quarantined."""

import asyncio
import json
from typing import Any

from tests.services.rollout.test_releases_end_to_end import LINE, TENANT, State, adopted, canary

from trimtab.bus import topics
from trimtab.core import control, examples, ledger, models
from trimtab.wire import schemas

USED, HELD = 24, 18


async def dispositions(platform: Any, **wanted: int) -> None:
    """Returns when the ledger counts exactly these."""
    counted: dict[str, int] = {}
    async with platform.ledger_calls() as calls:
        for _ in range(200):
            counts = await calls.counts(ledger.CountsRequest(TENANT, LINE))
            counted = {name.replace(" ", "_"): number for name, number in counts.dispositions.items()}
            if counted == wanted:
                return
            await asyncio.sleep(0.05)
    raise AssertionError(f"{counted} instead of {wanted}")


def data_set(platform: Any, name: str, used: list[str]) -> str:
    """A data set that was cut from feedback: every third example of it is held out."""
    split = [("held out" if number % 3 == 0 else "trained") for number in range(len(used))]
    rows = [
        json.dumps({"example_id": example, "disposition": disposition, "reason": ""})
        for example, disposition in zip(used, split, strict=True)
    ]
    files = {"members.jsonl": "\n".join(rows) + "\n"}
    return str(platform.publish_model(name, kind=models.ModelKind.DATASET, method="cut", files=files))


async def test_a_worse_candidates_window_is_quarantined_and_counts_again_once_released(platform: Any) -> None:
    async with platform.rollout() as rollout:
        old = await adopted(platform, rollout)
        platform.visit(platform.head(), {old: 0.5}, USED)
        await platform.until(lambda: len(platform.read(topics.EXAMPLES)) >= USED)
        made = [schemas.decode(one.value, one.headers, examples.Example).id for one in platform.read(topics.EXAMPLES)]
        before = data_set(platform, "first", made[: USED - HELD])
        second = data_set(platform, "second", made)
        reward = platform.publish_model("reward", kind=models.ModelKind.REWARD, datasets=(second,))
        good = platform.publish_model("good", datasets=(before,))
        await platform.reach(good, State.SAFETY)
        await rollout.promote(control.LineRequest(TENANT, LINE, "ann", "it is as good"))
        await platform.reach(good, State.PROMOTED)
        await dispositions(platform, trained=16, held_out=8)
        bad = platform.publish_model("bad", parents=(reward,), datasets=(second,))
        ended = await canary(platform, bad, {good: 0.9, bad: 0.1})
        assert (ended.state, ended.quarantine.dataset_id) == (State.ROLLED_BACK, second)
        assert (ended.quarantine.previous_dataset_id, ended.quarantine.reward_ids) == (before, (reward,))
        await dispositions(platform, trained=4, held_out=2, quarantined=HELD)
        async with platform.ledger_calls() as calls:
            [entry] = (await calls.list_quarantines(ledger.ListQuarantinesRequest(TENANT, LINE))).entries
        assert (entry.release.id, entry.examples, entry.release.quarantine.in_force) == (ended.id, HELD, True)
        routed = platform.head()
        await rollout.release_quarantine(
            control.ReleaseQuarantineRequest(TENANT, ended.id, "ann", "the votes were a prank")
        )
        await dispositions(platform, trained=16, held_out=8)
        assert {arm.policy_id: arm.weight for arm in platform.head().arms} == {
            arm.policy_id: arm.weight for arm in routed.arms
        }
