"""A release over a real vLLM, from the first vote to the verdict: `make bench SUITE=vllm`; writes its page.

`trimtab up` serves SmolLM2 135M Instruct by vLLM on this machine's CPU. Simulated people compare its answers through
the public API; at 200 votes the platform trains a reward model and, by DPO, a LoRA candidate, gives it a vLLM of its
own and releases it behind a canary that people's votes decide. Whatever gates and people say, the chain is shown.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests import timing
from tests.benchmarks import pages
from tests.benchmarks.vllm import people
from tests.engines import vllm

from trimtab.cli import show
from trimtab.cli.machine import platform
from trimtab.core import errors
from trimtab.rpc import ports, secrets

PAGE = pages.FOLDER / "vllm.md"
VOTES = 200
_LINES = """\
[lines.main]
tenant = "local"

[lines.main.trigger]
method = "dpo"
examples = 200
cycles = 1

# the head alone, on the features of a middle layer: a few hundred votes teach a pretrained body nothing
[lines.main.training.reward]
train_body = false
body_layers = 8
threads = 2

[lines.main.training.dpo]
lora_rank = 8
lr = 3e-4
warmup_steps = 3
epochs = 4
batch = 16
threads = 2
evaluation_prompts = 48
evaluation_max_tokens = 48

[lines.main.release]
# a visit takes some ten seconds, and its vote has to come before the session is mature
maturity_s = 60.0
safety_weight = 0.4
safety_completions = 20
maximum_sessions = 300

# two vLLMs share two cores while the candidate is judged
[lines.main.release.guardrails]
latency = inf
"""
_FINAL = {"promoted", "rolled_back", "not_proven", "failed", "cancelled"}
# A look is a command of two seconds, which cores that train and answer have to spare.
_UP_S, _LOOK_S = 900.0, 20.0
# Looks in which all runs have ended and nothing else has come of them.
_STILL = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench SUITE=vllm", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=pathlib.Path, help="A new folder to keep; default: one that is removed.")
    asked = parser.parse_args()
    vllm.make()
    with tempfile.TemporaryDirectory(prefix="trimtab-vllm-") as made:
        state = asked.state or pathlib.Path(made) / "state"
        state.mkdir(parents=True)
        (state / "lines.toml").write_text(_LINES)
        text = _played(state, asked.seed, show.Screen())
    pages.put(PAGE, text)
    sys.stdout.write(f"{text}\n")


def _played(state: pathlib.Path, seed: int, screen: show.Screen) -> str:
    """The page's measured part."""
    layout = platform.Layout(state)
    with _up(state):
        with screen.step("the platform starts, and a vLLM on SmolLM2"):
            timing.until(lambda: layout.facts.exists() and _stable(state) != "", "the first policy", _UP_S)
            first = _stable(state)
            key = secrets.local_api_key(layout.secrets)
            someone = people.People(layout.read_facts().addresses["gateway"], key, "main", seed)
        with contextlib.closing(someone), _watched(state) as watched:
            with screen.step(f"people compare answers: {VOTES} votes") as step:
                someone.compare(lambda: someone.votes < VOTES, step.say)
            with screen.step("a reward model and a LoRA candidate are trained") as step:
                _await_candidate(state, step)
            offered = _releases(state)[-1]
            if offered["state"] == "failed":
                with screen.step("the gates refuse it, and an operator forces it past them"):
                    _cli(state, "rollout", "start", offered["candidate_id"], "--force", "to see what people say of it")
            judging = screen.step("the candidate's vLLM starts, people vote, the canary is judged")
            with judging as step, _decided(state) as decided:
                someone.rate(lambda: not decided.is_set(), step.say)
        shown = {
            "feedback trace": _cli(state, "feedback", "trace", someone.completions[0]),
            "rollout history": _cli(state, "rollout", "history"),
            "rollout audit": _cli(state, "rollout", "audit"),
        }
        release = _releases(state)[-1]
    return _told(screen.times, _votes(someone, first, release), watched, shown)


@contextlib.contextmanager
def _up(state: pathlib.Path) -> Iterator[None]:
    """`trimtab up`, as somebody types it."""
    # of two cores each of the two has one while a candidate is judged
    engine = f"env OMP_NUM_THREADS=1 {vllm.COMMAND} --dtype=float32"
    told = {"TRIMTAB_ENGINE": "openai", "TRIMTAB_ENGINE_COMMAND": engine}
    command = [sys.executable, "-m", "trimtab.cli.app", "up", f"--policy={vllm.MODEL}", f"--state={state}"]
    command += ["--port=0", f"--grpc-port={ports.free_port()}"]
    with (state / "up.log").open("wb") as written:
        process = subprocess.Popen(command, env=os.environ | told, stdout=written, stderr=written)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timing.PATIENCE_S)


@contextlib.contextmanager
def _watched(state: pathlib.Path) -> Iterator[list[str]]:
    """What `trimtab rollout status --watch` tells meanwhile."""
    lines: list[str] = []
    command = [sys.executable, "-m", "trimtab.cli.app", "rollout", "status", "--watch", f"--state={state}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "400"}) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(line.rstrip() for line in process.stdout or ()))
        reader.start()
        try:
            yield lines
        finally:
            process.terminate()
            reader.join(timing.PATIENCE_S)


def _cli(state: pathlib.Path, *words: str) -> str:
    command = [sys.executable, "-m", "trimtab.cli.app", *words, f"--state={state}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.WrongState(f"`trimtab {' '.join(words)}` ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _releases(state: pathlib.Path) -> list[dict[str, Any]]:
    """Every release, oldest first."""
    listed: list[dict[str, Any]] = json.loads(_cli(state, "rollout", "history", "--json"))
    return listed


def _stable(state: pathlib.Path) -> str:
    """The id of the policy that was adopted; empty while none serves."""
    try:
        return next((one["candidate_id"] for one in _releases(state) if one["state"] == "promoted"), "")
    except errors.WrongState:
        return ""  # the platform is starting


@contextlib.contextmanager
def _decided(state: pathlib.Path) -> Iterator[threading.Event]:
    """Set once the newest release has ended."""
    decided, stop = threading.Event(), threading.Event()

    def look() -> None:
        while not stop.wait(_LOOK_S):
            if _releases(state)[-1]["state"] in _FINAL:
                decided.set()
                return

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        looking.add_done_callback(lambda _: decided.set())
        try:
            yield decided
        finally:
            stop.set()
        looking.result()


def _await_candidate(state: pathlib.Path, step: show.Step) -> None:
    """Until a release of the candidate has begun. WrongState when training cannot bring one."""
    still = 0
    while len(_releases(state)) < 2:
        time.sleep(_LOOK_S)
        runs = json.loads(_cli(state, "train", "runs", "--json"))
        for run in runs:
            if run["state"] not in ("queued", "running", "succeeded"):
                raise errors.WrongState(f"Run {run['id']} ended as {run['state']}: {run.get('problem')}")
        step.say("; ".join(f"{run['spec']['kind']} {run['state']}" for run in runs))
        still = still + 1 if runs and all(run["state"] == "succeeded" for run in runs) else 0
        if still == _STILL:
            raise errors.WrongState(f"Nothing comes of run {runs[0]['id']}: its models did not pass their gates.")


def _votes(someone: people.People, first: str, release: dict[str, Any]) -> dict[str, int]:
    answered = {"first policy": first, "candidate": release["candidate_id"]}
    return {
        f"votes on the {name}, `{policy[:12]}`": someone.policies.get(policy, 0) for name, policy in answered.items()
    }


def _told(times: dict[str, float], votes: dict[str, int], watched: list[str], shown: dict[str, str]) -> str:
    rows = [f"| {step} | {seconds:,.0f} s |" for step, seconds in times.items()]
    rows += [f"| {what} | {count} |" for what, count in votes.items()]
    made = f"Made on {datetime.datetime.now(datetime.UTC).date()}: {os.cpu_count()} cores."
    told = [made, "", "| what | |", "|---|---:|", *rows]
    told += ["", "`trimtab rollout status --watch`:", "", "```", *watched, "```"]
    for command, output in shown.items():
        told += ["", f"`trimtab {command}`:", "", "```", output.rstrip(), "```"]
    return "\n".join(told)


if __name__ == "__main__":
    main()
