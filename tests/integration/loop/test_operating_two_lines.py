"""Two lines on one platform, operated from another terminal: what belongs to one never shows in the other."""

import dataclasses
import pathlib
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests import timing
from tests.integration.loop import living

from trimtab.core import control, ledger

pytestmark = pytest.mark.slow
QUESTION = [{"role": "user", "content": "Where is the lamp?"}]
LINES = """
[lines.main]
tenant = "local"
[lines.support]
tenant = "local"
[lines.support.release]
rule = "noninferior"
margin = 0.1
"""


@dataclasses.dataclass
class Desk(living.Terminal):
    """A platform with two lines, and the terminal of its operator."""

    folder: pathlib.Path
    given: pathlib.Path
    policies: dict[str, str] = dataclasses.field(default_factory=dict)

    def ask(self, line: str) -> Any:
        body = {"model": line, "messages": QUESTION}
        answer = self.http().post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answers(self, line: str, policy: str) -> bool:
        """Whether this policy answers for the line now."""
        return policy.startswith(self.ask(line)["system_fingerprint"])

    def vote(self, line: str, value: str) -> Any:
        answer = self.ask(line)
        said = self.http().post("/v1/feedback", json={"completion_id": answer["id"], "value": value})
        assert said.status_code == 200, said.text
        return said.json()

    def http(self) -> httpx.Client:
        key = {"authorization": f"Bearer {self.up.api_key()}"}
        return httpx.Client(base_url=self.up.url, headers=key, timeout=30)

    def line(self, name: str) -> Any:
        """A line as `trimtab status` shows it, once the ledger has read everything."""
        self.up.books()
        return next(one for one in self.told("status")["lines"] if one["name"] == name)

    def reach(self, policy: str, *states: str) -> None:
        """Returns when the newest release of the policy is in one of these states."""

        def there() -> bool:
            mine = [one for one in self.up.history() if one.candidate_id == policy]
            return bool(mine) and mine[0].state.value in states

        timing.until(there, f"{policy[:12]} {states}", 60.0)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, policy: pathlib.Path) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("two-lines")
    one = Desk(living.Up(folder, policy), folder, policy)
    one.up.state.mkdir()
    (one.up.state / "lines.toml").write_text(LINES)
    try:
        # before it runs for the first time
        one.policies["support"] = one.done("models", "import", str(policy), "--line", "support").strip()
        one.up.start()
        one.done("rollout", "adopt", one.policies["support"], "--line", "support", "--reason", "its first")
        [one.policies["main"]] = {one.up.history()[0].candidate_id}
        yield one
    finally:
        one.up.destroy()


def test_each_line_answers_with_its_own_policy_and_keeps_its_own_feedback(desk: Desk) -> None:
    assert desk.policies["main"] != desk.policies["support"]
    for line in ("main", "support"):
        assert desk.answers(line, desk.policies[line])
    pinned = {"model": f"support@{desk.policies['main']}", "messages": QUESTION}
    assert desk.http().post("/v1/chat/completions", json=pinned).status_code == 404
    said = [desk.vote("main", "up") for _ in range(2)] + [desk.vote("support", value) for value in ("up", "down", "up")]
    for line, votes, approval in (("main", 2, 1.0), ("support", 3, 2 / 3)):
        shown = desk.line(line)
        assert shown["stable_id"] == desk.policies[line]
        assert (shown["counts"]["joined"], shown["counts"]["examples"]) == (votes, votes)
        [policy] = shown["approvals"]
        assert (policy["policy_id"], policy["votes"]) == (desk.policies[line], votes)
        assert policy["approval"] == pytest.approx(approval)
    lines = [[one.context.line for one in desk.up.trace(event["id"]).examples] for event in said]
    assert lines == [["main"]] * 2 + [["support"]] * 3


def test_a_release_of_one_line_leaves_the_other_alone_and_undo_brings_its_policy_back(
    desk: Desk, policy: pathlib.Path
) -> None:
    changed = desk.folder / "changed"
    shutil.copytree(policy, changed)
    (changed / "notes.json").write_text("{}")
    new = desk.done("models", "import", str(changed)).strip()
    refused = desk.type("rollout", "start", new, "--line", "support")
    assert refused.returncode == 1 and "of line 'support'" in refused.stderr
    unknown = desk.type("rollout", "start", new, "--line", "sales")
    assert unknown.returncode == 1 and "use one of main, support" in unknown.stderr
    desk.done("rollout", "start", new)
    desk.reach(new, "safety")
    desk.done("rollout", "pause", "--reason", "lunch")
    assert desk.line("main")["release_state"] == "safety, paused"
    assert desk.line("support")["release_state"] == "promoted"
    desk.done("rollout", "resume", "--reason", "lunch is over")
    nothing = desk.type("rollout", "abort", "--line", "support", "--reason", "by mistake")
    assert nothing.returncode == 1 and "has no release under way" in nothing.stderr
    desk.done("rollout", "promote", "--reason", "a deadline")
    desk.reach(new, "promoted")
    timing.until(lambda: desk.answers("main", new), "the promoted policy")
    assert desk.answers("support", desk.policies["support"])
    desk.done("rollout", "undo", "--reason", "users complain")
    desk.reach(new, "rolled_back")
    timing.until(lambda: desk.answers("main", desk.policies["main"]), "the policy before")
    assert {one["context"]["line"] for one in desk.told("rollout", "status", "--line", "support")} == {"support"}


def test_history_and_audit_say_who_did_what_when_and_why(desk: Desk) -> None:
    acts = [(one["act"], one["context"]["line"], one["reason"]) for one in desk.told("audit")]
    given = f"from folder {desk.given.name}"
    assert acts == [
        ("model.import", "support", given),
        ("model.import", "main", given),
        ("line.adopt", "main", "given to `trimtab up`"),
        ("line.adopt", "support", "its first"),
        ("model.import", "main", "from folder changed"),
        ("release.start", "main", ""),
        ("release.pause", "main", "lunch"),
        ("release.resume", "main", "lunch is over"),
        ("release.promote.force", "main", "a deadline"),
        ("release.undo", "main", "users complain"),
    ]
    assert [one["act"] for one in desk.told("audit", "--line", "support")] == ["model.import", "line.adopt"]
    assert len(desk.done("audit", "--limit", "2").splitlines()) == 3
    [released] = [one for one in desk.told("rollout", "history", "--line", "main") if one["stable_id"]]
    moves = [move["to_state"] for move in released["history"]]
    assert moves == ["pending", "verifying", "safety", "promoting", "promoted", "rolling_back", "rolled_back"]
    told = desk.done("rollout", "history", released["id"])
    for words in ("release.pause", "lunch is over", "Promoted by an operator", "Undone by an operator", "controller"):
        assert words in " ".join(told.split())
    assert released["quarantine"] is None
    assert desk.told("quarantine", "list") == []
    missing = desk.type("quarantine", "release", "nothing", "--reason", "why not")
    assert missing.returncode == 1 and "There is no release with a quarantine 'nothing'" in missing.stderr


def test_status_is_one_screen_and_logs_are_found_by_process(desk: Desk) -> None:
    shown = desk.told("status")
    rows = {row["name"]: row for row in shown["processes"]}
    assert {"gateway", "feedback", "ledger", "trainer", "rollout", "reward"} <= rows.keys()
    assert all(row["state"] == "running" and row["memory_bytes"] > 1e6 for row in rows.values() if row["pid"])
    screen = desk.done("status")
    for words in ("gateway", "main", "support", desk.policies["main"][:12], "approval", "MB"):
        assert words in screen
    assert len(screen.splitlines()) < 40
    assert "gateway" in desk.done("logs", "gateway", "-n", "5")
    assert len(desk.done("logs", "ledger", "-n", "3").splitlines()) <= 3
    wrong = desk.type("logs", "engine")
    assert wrong.returncode == 1 and "name one of" in wrong.stderr and "gateway" in wrong.stderr


def test_watching_tells_a_change_as_it_comes_and_ends_with_ctrl_c(desk: Desk) -> None:
    flags = ("rollout", "status", "--watch", "--line", "main", "--state", str(desk.up.state))
    with subprocess.Popen((*living.COMMAND, *flags), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline()
        told: list[str] = []
        reading = threading.Thread(target=lambda: told.extend(watching.stdout or ()))
        reading.start()
        new = next(one.candidate_id for one in desk.up.history() if one.stable_id)
        desk.done("rollout", "start", new)
        desk.reach(new, "safety")
        desk.done("rollout", "abort", "--reason", "seen enough")
        timing.until(lambda: any("seen enough" in line for line in told), "the change")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timing.PATIENCE_S) == 130
        reading.join(20)
    assert "rolled back" in first or "rolled back" in "".join(told)
    assert any("verifying" in line for line in told)


def test_down_stops_it_and_the_same_command_goes_on_with_the_same_policies_and_counts(desk: Desk) -> None:
    before = {line: desk.line(line) for line in ("main", "support")}
    acts, address = desk.told("audit"), desk.up.address()
    said = desk.done("down")
    assert "gateway" in said and "policy-" in said
    assert desk.up.processes() == {}
    for command in ("down", "status"):
        again = desk.type(command)
        assert again.returncode == 1
        assert again.stderr.startswith("trimtab: There is no running platform in")
    desk.up.start()
    for line, was in before.items():
        now = desk.line(line)
        assert desk.answers(line, desk.policies[line])
        for name in ("stable_id", "release_state", "approvals"):
            assert now[name] == was[name]
        for name in ("completions", "feedback", "joined", "examples", "dispositions"):
            assert now["counts"][name] == was["counts"][name]
    assert desk.told("audit") == acts
    # what an app has in its configuration
    assert desk.up.address() == address


def test_the_books_of_both_lines_add_up_to_those_of_the_tenant(desk: Desk) -> None:
    desk.up.books()

    async def counted(doors: Any) -> list[ledger.CountsResponse]:
        lines = ("main", "support", "")
        return [await doors.ledger.counts(ledger.CountsRequest(living.TENANT, line)) for line in lines]

    main, support, both = desk.up._ask(counted)
    assert main.examples + support.examples == both.examples > 0

    async def released(doors: Any) -> set[tuple[str, str]]:
        every = await doors.rollout.list_releases(control.ListReleasesRequest(living.TENANT))
        return {(one.context.line, arm.policy_id) for one in every for arm in one.arms}

    assert {policy for line, policy in desk.up._ask(released) if line == "support"} == {desk.policies["support"]}
