"""Row 11: broken artifacts are published, one after the other; the old policy serves, and the release says why.

A gateway, a rollout controller, a supervisor and real policy processes. Users ask the gateway all the while; which
policy answered stands in the log. What is broken was published whole and changed where the registry keeps it, or was
never published by us at all.
"""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import pickle
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from tests.faults import reading
from tests.faults.harness import checks, installation, load, process, subjects, world

from trimtab import registry
from trimtab.bus import topics
from trimtab.cli.machine import supervisor
from trimtab.core import completions, control, models, releases
from trimtab.registry import manifests
from trimtab.rollout import backend, processes
from trimtab.rpc import ports
from trimtab.wire import calls

_WEIGHTS = "model.safetensors"
# The safety stage gives a candidate half of the users and does not end.
_LINES = f"""{installation.LINES}
[lines.{load.LINE}.release]
safety_weight = 0.5
safety_completions = 1000000
"""
_ENOUGH = 20


@dataclasses.dataclass(frozen=True, slots=True)
class _Bench:
    of: installation.Installation
    rollout: subjects.Subject
    gateway: subjects.Subject
    http: str
    old: str

    def release_of(self, model_id: str) -> releases.Release | None:
        """The newest record of a policy's release."""
        with self.of.opened() as log:
            every = reading.decoded(log, topics.ROLLOUTS, releases.Release)
        mine = [one for one in every if one.candidate_id == model_id]
        return max(mine, key=lambda one: one.revision, default=None)

    def answers(self) -> list[completions.Completion]:
        with self.of.opened() as log:
            return reading.decoded(log, topics.COMPLETIONS, completions.Completion)

    def has_failed(self, model_id: str) -> bool:
        """Whether its release has, and says why."""
        release = self.release_of(model_id)
        failed = release is not None and release.state is releases.ReleaseState.FAILED
        return failed and release is not None and bool(release.history[-1].reason)

    def await_the_end_of(self, model_id: str) -> None:
        """Returns when its release has failed or, which must not be, it has answered somebody."""

        def is_over() -> bool:
            return self.has_failed(model_id) or any(one.policy_id == model_id for one in self.answers())

        installation.until(is_over, f"nothing is said of a broken policy: see {self.rollout.said}")

    def failed_by_metric(self) -> int:
        return int(self.rollout.figure("trimtab_rollout_transitions_total", line=load.LINE, state="failed"))


class _Opened:
    """A pickle that leaves a file behind when somebody opens it."""

    def __init__(self, leaves: pathlib.Path) -> None:
        self._leaves = leaves

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self._leaves,)


def published(of: installation.Installation, seen: checks.Seen) -> None:
    """11: truncated, a bit flipped, another digest, a pickle beside the weights or in their place."""
    names = list(_BREAKS)
    if of.mutant or of.size.votes <= world.SMALLEST.votes:
        names = names[:1]
    leaves = of.folder / "opened"
    broken: dict[str, str] = {}
    with _prepared(of) as bench, _users(bench) as told:
        for number, name in enumerate(names):
            model_id = _BREAKS[name](of, _draft_of_weights(of, number), leaves)
            broken[model_id] = name
            bench.await_the_end_of(model_id)
            wanted = len(told) + _ENOUGH
            installation.until(functools.partial(_are, told, wanted), "users are not answered any more")
        silent = [name for id_, name in broken.items() if not bench.has_failed(id_)]
        counted = 0 if silent else bench.failed_by_metric()  # a platform that has seen no failure shows no figure
        answers = bench.answers()
    by_another = [one.id for one in answers if one.policy_id != bench.old]
    seen.check("served", "answers by a broken policy", len(answers), by_another)
    seen.check("unanswered", "requests that failed", len(told), [one for one in told if one])
    seen.check("silent", "broken artifacts that no release record names", len(broken), silent)
    seen.check("opened", "pickles opened", len(names), ["it"] if leaves.exists() else [])
    seen.require(bool(silent) or counted == len(broken), f"The metric counts {counted} failed releases.")
    seen.require(len(answers) >= len(names) * _ENOUGH, f"Only {len(answers)} answers were recorded.")
    seen.notes.append(", ".join(names))


def _draft_of_weights(of: installation.Installation, number: int) -> pathlib.Path:
    """A policy of its own: the last bit of another weight differs."""
    folder = of.folder / f"candidate-{number}"
    shutil.copytree(of.folder / "policy", folder)
    content = bytearray((folder / _WEIGHTS).read_bytes())
    content[-4 * (number + 1)] ^= 1
    (folder / _WEIGHTS).write_bytes(content)
    return folder


def _spoilt(spoil: Callable[[bytes], bytes]) -> Callable[[installation.Installation, pathlib.Path, pathlib.Path], str]:
    """The file of the weights is changed where the registry keeps it."""

    def make(of: installation.Installation, weights: pathlib.Path, _: pathlib.Path) -> str:
        manifest = of.registry.publish(weights, _draft())
        [file] = [file for file in manifest.files if file.path == _WEIGHTS]
        blob = of.folder / "registry" / "blobs" / "sha256" / file.sha256
        blob.write_bytes(spoil(blob.read_bytes()))
        of.announce(manifest)
        return manifest.id

    return make


def _flipped(content: bytes) -> bytes:
    middle = len(content) - len(content) // 4
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def _another_digest(of: installation.Installation, weights: pathlib.Path, _: pathlib.Path) -> str:
    """The manifest names bytes that are there and were never this policy's."""
    manifest = of.registry.publish(weights, _draft())
    theirs = {file.path: file.sha256 for file in _files(of.folder / "policy")}
    [file] = [file for file in manifest.files if file.path == _WEIGHTS]
    path = of.folder / "registry" / "manifests" / f"{manifest.id}.json"
    path.write_text(path.read_text().replace(file.sha256, theirs[_WEIGHTS]))
    of.announce(manifest)
    return manifest.id


def _pickled(name: str) -> Callable[[installation.Installation, pathlib.Path, pathlib.Path], str]:
    """A manifest that is right in itself and that nothing of ours would have written."""

    def make(of: installation.Installation, weights: pathlib.Path, leaves: pathlib.Path) -> str:
        (weights / name).write_bytes(pickle.dumps(_Opened(leaves)))
        files = _files(weights)
        manifest = manifests.complete(_draft(), files)
        for file in files:
            shutil.copyfile(weights / file.path, of.folder / "registry" / "blobs" / "sha256" / file.sha256)
        (of.folder / "registry" / "manifests" / f"{manifest.id}.json").write_bytes(manifests.to_json(manifest))
        of.announce(manifest)
        return manifest.id

    return make


def _files(folder: pathlib.Path) -> list[registry.File]:
    return [
        registry.File(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    ]


def _draft() -> registry.ManifestDraft:
    return registry.ManifestDraft(kind=models.ModelKind.POLICY, tenant=load.TENANT, line=load.LINE, method="sft")


_BREAKS = {
    "a bit flipped": _spoilt(_flipped),
    "truncated": _spoilt(lambda content: content[:-7]),
    "another digest": _another_digest,
    "a pickle beside the weights": _pickled("pytorch_model.bin"),
    "a pickle in their place": _pickled(_WEIGHTS),
}


@contextlib.contextmanager
def _prepared(of: installation.Installation) -> Iterator[_Bench]:
    """A platform whose line has adopted the old policy."""
    of.make_models()
    (of.folder / "lines.toml").write_text(_LINES)
    old = of.publish("policy", models.ModelKind.POLICY, announce=True)
    state, stop = of.folder / "state", threading.Event()
    state.mkdir()
    http = ports.free_port()
    keeper = supervisor.Supervisor(state, drain_s=3.0)
    supervising = threading.Thread(target=keeper.run, args=(stop,))
    ledger = of.subject("ledger", database=f"sqlite:///{of.folder / 'ledger.db'}")
    rollout = of.subject(
        "rollout",
        ledger_address=ledger.address,
        state=state,
        look_every_s=0.2,
        policy_command=_policy_command(of),
    )
    # nobody votes here
    gateway = of.subject("gateway", feedback_address="127.0.0.1:1", http_listen=f"127.0.0.1:{http}")
    with keeper.alone():
        supervising.start()
        try:
            for subject in (ledger, rollout, gateway):
                subject.start()
            ledger.await_serving()
            rollout.await_serving()
            adopt = control.AdoptRequest(load.TENANT, load.LINE, old, "harness", "the first")
            of.ask(rollout, calls.RolloutCalls, lambda to: to.adopt(adopt))
            bench = _Bench(of, rollout, gateway, f"http://127.0.0.1:{http}", old)
            installation.until(lambda: _serves(bench), f"the old policy does not serve: see {rollout.said}")
            yield bench
        finally:
            stop.set()
            supervising.join()


def _policy_command(of: installation.Installation) -> str:
    module = ("tests.faults.harness.process",) if of.mutant else ("trimtab.cli.app",)
    words = ("policy", "--model-id", backend.POLICY, "--line", backend.LINE, "--listen", processes.ADDRESS)
    return shlex.join(("env", f"{process.MUTANT}={of.mutant}", sys.executable, "-m", *module, *words))


def _serves(bench: _Bench) -> bool:
    with contextlib.suppress(httpx.TransportError), httpx.Client() as client:
        return not _asked(client, bench)
    return False


def _asked(client: httpx.Client, bench: _Bench) -> str:
    """What is wrong with the answer to a question; empty when it is one."""
    said = client.post(
        f"{bench.http}/v1/chat/completions",
        headers={"Authorization": f"Bearer {bench.of.api_key}"},
        json={"model": load.LINE, "messages": [{"role": "user", "content": "which one"}], "max_tokens": 4},
        timeout=60.0,
    )
    return "" if said.status_code == httpx.codes.OK else f"{said.status_code} {said.text[:200]}"


def _are(told: list[str], wanted: int) -> bool:
    return len(told) >= wanted


@contextlib.contextmanager
def _users(bench: _Bench) -> Iterator[list[str]]:
    """Somebody asks, and asks again; what was wrong with each answer, mostly nothing."""
    over, told = threading.Event(), list[str]()

    def ask() -> None:
        with httpx.Client() as client:
            while not over.wait(0.05):
                try:
                    told.append(_asked(client, bench))
                except httpx.TransportError as problem:
                    told.append(f"no answer: {problem!r}")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield told
    finally:
        over.set()
        asking.join()
