"""Records what this version writes: the state folder of a platform that ran, and what its ledger counted in the end.

    python tools/record_platform.py     # VERSION.tar.xz and VERSION.json in tests/integration/upgrade/recordings

Done once for each version that is released; from then on every later version has to read it, replay it to the same
counts and go on from it. The policy is so small that its weights stay in: a few kilobytes. Left out are caches, logs of
processes and checkpoints of ended runs, which no platform needs; paths of the recording machine are replaced. The
secrets are those of a platform that is gone.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import trimtab_client
from trimtab.bus import port, publish, topics
from trimtab.cli.machine import platform
from trimtab.core import control, feedback, ledger, releases, text
from trimtab.rpc import ports, secrets
from trimtab.wire import schemas

RECORDINGS = pathlib.Path(__file__).parents[1] / "tests" / "integration" / "upgrade" / "recordings"
TENANT, LINE = "local", "main"
_LEFT_OUT = ("cache", "checkpoints", "logs", platform.Layout(pathlib.Path()).facts.name)
# An answer that the platform has not seen, and may see yet.
_ELSEWHERE = "01a1fdd9-6b1c-7f2d-b579-8b1682215e33"
_QUESTIONS = ("Why is the sky blue?", "And at sunset?", "Who asks?")
_ANSWER = "Because air scatters blue light."
_LIMIT_S = 300.0
# Whoever gets the candidate likes it: some twenty sessions an arm prove it better. A limit of 2 is beyond what a share
# can differ by, and answers are scored all the same.
_LINES = f"""[lines.{LINE}]
tenant = "{TENANT}"

[lines.{LINE}.trigger]
examples = 0

[lines.{LINE}.release]
alpha = 0.2
maturity_s = 0.5
minimum_sessions = 8
maximum_sessions = 400
safety_completions = 3
safety_weight = 0.4

[lines.{LINE}.release.guardrails]
errors = inf
latency = inf
length = inf
refusals = inf
repetition = inf
reward = 2
"""


class Recorder:
    """A platform in a folder of its own, its app, its users and its operator."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.layout = platform.Layout(folder / "state")
        self._sessions = 0

    def record(self) -> dict[str, Any]:
        """Lives through everything, and returns what a later version has to find."""
        write_policy(self._folder / "sky")
        write_demonstrations(self._folder / "demonstrations.jsonl")
        self.layout.state.mkdir()
        self.layout.lines.write_text(_LINES)
        with self._up() as client:
            [first] = self._ids("policy")
            self.every_kind(client)
            asyncio.run(self.imported())
            self.another_replica()
            self.poison()
            self.trained("reward", "--parent", first, "--set", "epochs=30", "--set", "lr=0.02")
            demonstrations = ("--dataset", str(self._folder / "demonstrations.jsonl"), "--set", "epochs=2")
            self.trained("sft", "--parent", first, *demonstrations)
            self.released(client, first)
            counts = self._counts()
        counts.pop("consumed")
        return {"version": version(), "records": self._records(), "counts": counts}

    def every_kind(self, client: trimtab_client.Trimtab) -> None:
        """Feedback of every kind, amended, taken back, sent twice, too early, in conflict."""
        say = client.feedback
        for position, question in enumerate(_QUESTIONS):
            one = client.chat(question, session=f"every kind {position}", user=f"user-{position}", segment="web")
            say.thumb(one, up=position > 0, id=f"thumb-{position}", surface="chat", rater=f"rater-{position}")
            say.thumb(one, up=position > 0, id=f"thumb-{position}", surface="chat", rater=f"rater-{position}")
            say.rate(one, stars=2 + position, network="203.0.113.7")
        three = client.chat(_QUESTIONS[0], session="ranked", n=3, temperature=2.0, seed=7)
        best, middle, worst = three.choices
        say.compare(best, worst, strength=0.5)
        say.compare(best, middle, tie=True, rater="undecided", rater_kind="annotator")
        say.rank([best, [middle, worst]], rater="ranks", criterion="helpful")
        edited = say.edit(middle, "Because air scatters blue light most.", rater="corrects")
        say.edit(middle, "Air scatters blue light most.", supersedes=edited, rater="corrects")
        say.demonstrate("What is red?", "The light of a low sun.", rater="shows", rater_kind="annotator")
        critique = say.critique(best, "Says little.", span=(0, 1), rater="words")
        say.thumb(best, up=False, read_from=critique, rater="model", rater_kind="model")
        for kind in ("copy", "regenerate", "accept", "abandon"):
            say.signal(worst, kind, rater=kind)
        say.retract(say.thumb(worst, up=True, rater="regrets"), reason="a slip")
        kept_nowhere = client.chat(_QUESTIONS[1], session="private", store=False)
        say.thumb(kept_nowhere, up=True)
        *_, last = client.stream(_QUESTIONS[2], session="streamed", max_tokens=8)
        say.rate(last.answer_id, stars=5)
        say.thumb(_ELSEWHERE, up=True)

    async def imported(self) -> None:
        """Preferences from elsewhere."""
        items = tuple(
            feedback.ImportedPreference(
                prompt=(text.Message(text.Role.USER, text.Text(f"Number {number}?")),),
                preferred=text.Text(f"It is {number}."),
                rejected=text.Text(f"Only {number}."),
                item=str(number),
            )
            for number in range(100)
        )
        async with platform.doors(self.layout) as doors:
            request = feedback.ImportPreferencesRequest(TENANT, LINE, "elsewhere", items)
            assert (await doors.feedback.import_preferences(request)).accepted == len(items)

    def another_replica(self) -> None:
        """What one that had not heard of a vote would write: the vote again, and another vote under its id."""
        with contextlib.closing(self.layout.open_log()) as log:
            said = [
                schemas.decode(one.value, one.headers, feedback.FeedbackEvent) for one in records(log, topics.FEEDBACK)
            ]
            [vote] = [event for event in said if event.id == "thumb-0"]
            for copy in (vote, dataclasses.replace(vote, surface="elsewhere")):
                assert copy.context is not None
                publish.publish(log, topics.FEEDBACK, copy.context.session_hash, copy).result()

    def poison(self) -> None:
        """A record that nobody can read, and what an operator does about it."""
        headers = {schemas.SCHEMA_HEADER: b"feedback/1"}
        with contextlib.closing(self.layout.open_log()) as log:
            log.append([port.NewRecord(topics.FEEDBACK.name, b"poison", b"\xff", headers)]).result()
        self._until("the dead letter", lambda: "feedback/" in self._type("deadletter", "list"))
        self._type("deadletter", "drop", "--all", "--reason", "written by hand")

    def trained(self, method: str, *settings: str) -> None:
        """A run, from its start to its end."""
        self._type("train", "start", method, *settings, "--watch")
        *_, newest = json.loads(self._type("train", "runs", "--json"))
        if (newest["spec"]["kind"], newest["state"]) != (method, "succeeded"):
            raise RuntimeError(f"the {method} run: {newest}")

    def released(self, client: trimtab_client.Trimtab, first: str) -> None:
        """A candidate proven by votes."""
        offered = {releases.ReleaseState.SAFETY, releases.ReleaseState.EVIDENCE}
        self._until("the candidate", lambda: asyncio.run(self._newest_release()).state in offered)

        def promoted() -> bool:
            for _ in range(5):
                self._sessions += 1
                said = client.chat(_QUESTIONS[self._sessions % 3], session=f"visit {self._sessions}")
                client.feedback.thumb(said, up=said.policy_id != first, surface="chat")
            newest = asyncio.run(self._newest_release())
            return newest.state is releases.ReleaseState.PROMOTED and newest.candidate_id != first

        self._until("a promotion", promoted)

    @contextlib.contextmanager
    def _up(self) -> Iterator[trimtab_client.Trimtab]:
        """`trimtab up`, and an app's client to it; it is ended as Ctrl-C would."""
        said, grpc_port = self._folder / "up.log", ports.free_port()
        flags = ("--policy", str(self._folder / "sky"), "--port", "0", "--grpc-port", str(grpc_port))
        with said.open("wb") as output:
            up = subprocess.Popen(self._command("up", *flags), env=environment(), stdout=output, stderr=output)
        try:
            self._until("the welcome", lambda: "stops it; the same" in said.read_text() or up.poll() is not None)
            key = secrets.local_api_key(self.layout.secrets)
            with trimtab_client.Trimtab(f"127.0.0.1:{grpc_port}", api_key=key, line=LINE) as client:
                yield client
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(_LIMIT_S)

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "trimtab.cli.app", *arguments, "--state", str(self.layout.state))

    def _type(self, *arguments: str) -> str:
        """What a command says; a failure ends the recording."""
        command = self._command(*arguments)
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    async def _newest_release(self) -> releases.Release:
        async with platform.doors(self.layout) as doors:
            return (await doors.rollout.list_releases(control.ListReleasesRequest(TENANT, LINE), timeout_s=10))[0]

    def _ids(self, kind: str) -> list[str]:
        return [model["id"] for model in json.loads(self._type("models", "list", "--json")) if model["kind"] == kind]

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come")
            time.sleep(0.2)

    def _counts(self) -> dict[str, Any]:
        """The ledger's, once it has read all that is written."""

        async def asked() -> ledger.CountsResponse:
            async with platform.doors(self.layout) as doors:
                return await doors.ledger.counts(ledger.CountsRequest(TENANT, LINE), timeout_s=10)

        with contextlib.closing(self.layout.open_log()) as log:
            names = (topics.COMPLETIONS.name, topics.FEEDBACK.name, topics.MODELS.name, topics.ROLLOUTS.name)
            ends = {str(source): end for name in names for source, end in log.end_offsets(name).items()}
        self._until(
            "the ledger's reading",
            lambda: all(asyncio.run(asked()).consumed.get(source, 0) >= end for source, end in ends.items()),
        )
        return dataclasses.asdict(asyncio.run(asked()))

    def _records(self) -> dict[str, int]:
        """How many of each schema the log holds."""
        found: collections.Counter[str] = collections.Counter()
        with contextlib.closing(self.layout.open_log()) as log:
            for topic in topics.ALL.values():
                found.update(record.headers[schemas.SCHEMA_HEADER].decode() for record in records(log, topic))
        return dict(sorted(found.items()))


def records(log: port.EventLog, topic: topics.Topic) -> list[port.Record]:
    """All that the log has of a topic."""
    found: list[port.Record] = []
    with contextlib.closing(log.reader(dict.fromkeys(log.end_offsets(topic.name), 0))) as reader:
        while some := reader.poll(1000, 0.0):
            found += some
    return found


def version() -> str:
    return metadata.version("trimtab")


def environment() -> dict[str, str]:
    return os.environ | {"LOGNAME": "ann"}


def write_policy(folder: pathlib.Path) -> None:
    """A chat model of three thousand weights that knows one answer."""
    import torch

    from trimtab.modeling import loading, tiny

    torch.set_num_threads(1)
    tokenizer = tiny.train_bpe([*_QUESTIONS, _ANSWER], vocab_size=300)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=8, layers=1, heads=2, intermediate=16, context=128)
    texts = [f"{tiny.USER}{question}{tiny.END}{tiny.ASSISTANT}{_ANSWER}{tiny.END}" for question in _QUESTIONS]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(40):
        for ids in (tokenizer(one, return_tensors="pt")["input_ids"] for one in texts):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    loading.save_policy(model.eval(), tokenizer, loading.ServingProfile(temperature=0.0, max_tokens=16), folder)


def write_demonstrations(file: pathlib.Path) -> None:
    rows = [{"prompt": question, "response": "Air scatters blue light most."} for question in _QUESTIONS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pack(layout: platform.Layout, to: pathlib.Path) -> None:
    """The state folder without what no platform needs and what only the recording machine has."""
    with contextlib.closing(sqlite3.connect(layout.state / "processes.sqlite")) as table, table:
        table.execute("UPDATE processes SET argv = replace(argv, ?, 'python3')", (sys.executable,))
    with contextlib.closing(sqlite3.connect(layout.state / "processes.sqlite")) as table:
        table.execute("VACUUM")

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if (entry.size == 0 and entry.isfile()) or set(pathlib.PurePath(entry.name).parts) & set(_LEFT_OUT):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(to, "w:xz") as archive:
        archive.add(layout.state, "state", filter=wanted)


def main() -> int:
    archive, golden = (RECORDINGS / f"{version()}{ending}" for ending in (".tar.xz", ".json"))
    if archive.exists():
        sys.exit(f"{version()} is recorded. Raise the version, or delete {archive.name} if it was never released.")
    with tempfile.TemporaryDirectory(prefix="trimtab-recording-") as folder:
        recorder = Recorder(pathlib.Path(folder))
        found = recorder.record()
        pack(recorder.layout, archive)
    golden.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
