"""Human preferences from a file become a reward model; the same file again counts nothing and makes the same one."""

import asyncio
import json
import logging
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from trimtab.cli.feedback import importing
from trimtab.cli.machine import artifacts, operating, platform
from trimtab.core import ledger
from trimtab.rollout import processes
from trimtab.rpc import health

TENANT, LINE = "local", "main"
PAIRS = 120


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platform.Layout]:
    """A platform without a policy: seven processes that keep what they are sent."""
    layout = platform.Layout(tmp_path_factory.mktemp("state"))
    layout.lines.write_text(f'[lines.{LINE}]\ntenant = "{TENANT}"\n')
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    with platform.Platform(layout.state, TENANT, LINE).running():
        yield layout
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Kind answers are preferred to unkind ones. One line compares two dialogues, one has no preferred answer."""
    pairs = [
        (f"\n\nHuman: Question {number}?\n\nAssistant:", f" Gladly, it is {number}.", f" No. Go away, {number}.")
        for number in range(PAIRS)
    ]
    lines = [{"chosen": asked + kind, "rejected": asked + unkind} for asked, kind, unkind in pairs]
    lines.append({"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: C?\n\nAssistant: B."})
    lines.append({"chosen": "\n\nHuman: A?\n\nAssistant: ", "rejected": "\n\nHuman: A?\n\nAssistant: B."})
    path = tmp_path_factory.mktemp("file") / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def imported(layout: platform.Layout, file: pathlib.Path, capsys: Any) -> tuple[dict[str, Any], str]:
    """The document on standard output, and what people are told beside."""
    asyncio.run(importing.import_file(layout.state, "", file, "hh-rlhf", as_json=True))
    out, err = capsys.readouterr()
    return json.loads(out), err


async def acts(layout: platform.Layout) -> list[tuple[str, str, str]]:
    """(act, target, reason), oldest first."""
    async with platform.doors(layout) as doors:
        listed = (await doors.ledger.list_audit(ledger.ListAuditRequest(TENANT))).records
    assert {record.actor for record in listed} == {operating.operator()}
    return [(record.act, record.target, record.reason) for record in reversed(listed)]


async def counts(layout: platform.Layout) -> ledger.CountsResponse:
    async with platform.doors(layout) as doors:
        return await doors.ledger.counts(ledger.CountsRequest(TENANT, LINE))


def restart(layout: platform.Layout, name: str) -> None:
    """Kills a process without warning and waits until its successor serves."""
    table = processes.Table(layout.state)
    row = table.get(name)
    assert row is not None
    os.kill(row.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (now := table.get(name)) is None or now.pid in {0, row.pid} or not serves(row.address):
        assert time.monotonic() < deadline, f"{name} did not come back"
        threading.Event().wait(0.05)
    table.close()


def serves(address: str) -> bool:
    return asyncio.run(health.is_serving(address, timeout_s=1.0))


@pytest.mark.slow
def test_a_file_is_counted_once_however_often_it_is_imported(
    running: platform.Layout, file: pathlib.Path, capsys: Any
) -> None:
    first, told = imported(running, file, capsys)
    assert first["import"] == {"new": PAIRS, "known": 0, "refused": 1, "left_out": 1}
    assert "counted twice" not in told
    assert "bag of words" in told
    pairs = first["held_out"]["pairs"]
    assert set(pairs) == {"reward model", "bag of words"}
    assert pairs["reward model"]["examples"] == pairs["bag of words"]["examples"] > 0
    assert [gate["name"] for gate in first["gates"]] == ["pair_nll_below_constant", "pair_nll_above_bag_of_words"]
    # with its memory of ids gone, the feedback process takes everything for new
    restart(running, "feedback")
    again, told = imported(running, file, capsys)
    assert again["import"] == {"new": 0, "known": PAIRS, "refused": 1, "left_out": 1}
    assert f"{PAIRS} of them were known already, and nothing is counted twice" in told
    models = [artifacts.open_registry(running).manifest(one["reward_model"]["id"]) for one in (first, again)]
    assert models[0].files == models[1].files
    assert (models[0].parents, models[0].datasets) == (models[1].parents, models[1].datasets)
    books = asyncio.run(counts(running))
    assert (books.feedback, books.joined, books.examples, books.duplicates) == (PAIRS, PAIRS, PAIRS, PAIRS)
    # bringing what is there is no act, training on it again is
    assert asyncio.run(acts(running)) == [
        ("feedback.import", LINE, f"{PAIRS + 1} preferences of {file.name}"),
        *(("run.start", one["run"], f"on preferences of {file.name}") for one in (first, again)),
    ]
