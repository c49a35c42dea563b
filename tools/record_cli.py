"""Records a session of the command line: a real platform, a tiny model, what people type and what they get to see.

    python tools/record_cli.py              # writes docs/cli.md
    python tools/record_cli.py --check      # exit code 1 when the commands say something else by now

What varies is replaced: every id by another one, the same wherever it stands; times, ports, paths, the API key. To add
a command, add a line to `SESSION`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from trimtab.rpc import ports

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "cli.md"
QUESTION, ANSWER = "Why is the sky blue?", "Because air scatters blue light most."
_TAUGHT = {QUESTION: ANSWER, "And at sunset?": "The way is long and only red is left.", "Who asks?": "You do."}
_LIMIT_S = 300.0  # of a command, on a machine that has other things to do
_TIMED_OUT = 124  # what `timeout` says of it


@dataclasses.dataclass(frozen=True, slots=True)
class Typed:
    """A command, with {answer}, {policy}, {made} and {run} for ids that were shown before it.

    until: words that its output has once the platform got that far; it is asked again until then.
    """

    command: str
    until: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    heading: str
    words: str
    typed: tuple[Typed, ...]


_CURL = (
    'curl -s $URL/chat/completions -H "authorization: Bearer $KEY" -H "content-type: application/json" \\\n'
    f'    -d \'{{"model": "main", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}\''
)
# Of the record that `rollout show` shows, which takes in what was answered a moment later.
_BOTH_COUNTED = (
    "stable            0       0      0     0.000            3\n"
    "candidate         0       0      0     0.000            3"
)
SESSION = (
    Part(
        "Ask, and say what you think",
        "Any OpenAI client works; so does `curl`. Feedback names the answer's id.",
        (
            Typed(_CURL),
            Typed("trimtab feedback send thumb {answer} up --surface chat"),
            Typed('trimtab feedback send edit {answer} "Because air scatters blue light more than red."'),
            Typed("trimtab feedback trace {answer}", until="edit: joined"),
        ),
    ),
    Part(
        "Train",
        "A run from a file of demonstrations; with enough feedback the platform starts runs by itself.",
        (
            Typed("cat demonstrations.jsonl"),
            Typed(
                "trimtab train start sft --parent {policy} --dataset demonstrations.jsonl \\\n"
                "    --set epochs=4 --set lr=0.001 --set warmup_steps=0 --label sunsets"
            ),
            Typed("trimtab train show {run} --watch"),
            Typed("trimtab train runs"),
            Typed("trimtab train report {run} -o sunsets.html"),
        ),
    ),
    Part(
        "See where a model came from",
        "The beginning of an id is enough.",
        (
            Typed("trimtab models list"),
            Typed("trimtab models show {made}"),
            Typed("trimtab models lineage {made}", until=", safety: "),
        ),
    ),
    Part(
        "Release it",
        "A policy that its gates let pass is released by itself. Votes decide; an operator may, with a reason.",
        (
            Typed("trimtab rollout status", until="safety"),
            Typed("cat questions.jsonl"),
            Typed("trimtab eval candidate --against stable --prompts questions.jsonl"),
            Typed("trimtab rollout show", until=_BOTH_COUNTED),
            Typed('trimtab rollout promote --reason "it knows about sunsets"'),
            Typed("trimtab rollout status", until="promoted  "),
            Typed("trimtab rollout history"),
            Typed("trimtab models lineage {policy}"),
        ),
    ),
    Part(
        "Prove it",
        "How long votes take to decide at your traffic, and every figure of a release from the log again.",
        (
            Typed("trimtab rollout simulate --sessions 5000 --difference 0.1 --runs 10"),
            Typed("trimtab rollout audit"),
        ),
    ),
    Part(
        "Operate it",
        "From any terminal. Whatever an operator does is on the audit trail.",
        (
            Typed("trimtab status"),
            Typed("trimtab audit"),
            Typed("trimtab quarantine list"),
            Typed('trimtab rollout undo --reason "only to show it"'),
        ),
    ),
)
_START = """# A session on the command line

Recorded by `tools/record_cli.py` from a real platform with a model of 50 thousand weights; ids, times and ports are
replaced. Every command explains itself with `--help`, and every one that reads has `--json`. `--state DIR` names the
platform where it is not in `.trimtab`. `trimtab --install-completion` completes commands and ids in your shell.

## Start it

In a terminal of its own; Ctrl-C ends it, and the same command goes on where it stopped.
"""


class Scrub:
    """Replaces what varies. One for a whole session: an id is replaced by the same one wherever it stands."""

    _WHOLE = re.compile(
        r"chatcmpl-[\w-]{40,}|tt-[\w-]{30,}|run-[0-9a-f]{32}|\b[0-9a-f]{64}\b|\b[0-9a-f]{20}\b|\b[0-9a-f]{12}\b"
        r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    )
    _PLAIN = (
        (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-01-05 09:30:00"),
        (re.compile(r"(?<=running)  +\d+"), "  4711"),  # however many digits it has
        (re.compile(r"(?<=state)  +pid"), "     pid"),
        (re.compile(r" +\d+ MB"), lambda memory: "80 MB".rjust(len(memory[0]))),
        (re.compile(r": loading;"), ": waits for its turn;"),
        (re.compile(r'"created":\d+'), '"created":1767605400'),
        (re.compile(r"\b\d+ s\b"), "2 s"),
        (re.compile(r"\bfold \d\b"), "fold 4"),
        (re.compile(r"^  … .*\n", re.M), ""),
        (re.compile(r"[ \t]+$", re.M), ""),
    )

    def __init__(self, plain: dict[str, str]) -> None:
        self._given = plain
        self._instead: dict[str, str] = {}

    def __call__(self, said: str) -> str:
        for real, shown in self._given.items():
            said = said.replace(real, shown)
        said = self._WHOLE.sub(lambda found: self._id(found[0]), said)
        said = re.sub(r"[\w-]{9,}", lambda found: self._piece(found[0]), said)
        for pattern, shown in self._PLAIN:
            said = pattern.sub(shown, said)
        return re.sub(r"127\.0\.0\.1:\d{4,5}\b", lambda found: self._port(found[0]), said)

    def _id(self, real: str) -> str:
        if real in self._instead.values():  # replaced already
            return real
        if re.fullmatch(r"[0-9a-f]{12,64}", real):  # a model's, whole or short
            return self._new(real[:12], "0" * 64)[: len(real)]
        if real.startswith(("chatcmpl-", "tt-")):
            if any(real in known and real != known for known in self._instead):  # folded by a table
                return real
            prefix, _, body = real.partition("-")
            return self._new(real, f"{prefix}-{'0' * len(body)}")
        return self._new(real, re.sub(r"[0-9a-f](?=[0-9a-f-]*$)", "0", real))

    def _new(self, real: str, shape: str) -> str:
        """Another id for this one, with a digit for each 0 of the shape."""
        if real not in self._instead:
            digits = iter(hashlib.sha512(f"id {len(self._instead)}".encode()).hexdigest())
            self._instead[real] = re.sub("0", lambda _: next(digits), shape)
        return self._instead[real]

    def _piece(self, word: str) -> str:
        """A part of an id that a table has folded."""
        for real, shown in self._instead.items():
            if word in real and word != real:
                start = real.index(word)
                return shown[start : start + len(word)]
        return word

    def _port(self, address: str) -> str:
        return address if address in self._given.values() else "127.0.0.1:50051"


def comparable(page: str) -> list[str]:
    """A page without what depends on the machine: the digits of fractions, and the widths that follow from them."""
    lines = [re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", line) for line in page.splitlines()]
    return [" ".join(line.split()) for line in lines]


class Session:
    """A platform in a folder of its own, and a person at a terminal in it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.state = folder / ".trimtab"
        self.port, self.grpc_port = ports.free_port(), ports.free_port()
        self.key = ""
        self.ids = {"answer": "", "policy": "", "made": "", "run": ""}
        self._up: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def started(self) -> Iterator[str]:
        """`trimtab up` on a small model, and what it says; it is ended as Ctrl-C would."""
        write_policy(self.folder / "sky")
        rows = [{"prompt": question, "response": answer} for question, answer in _TAUGHT.items()]
        _write(self.folder / "demonstrations.jsonl", rows)
        _write(self.folder / "questions.jsonl", [{"prompt": question} for question in _TAUGHT])
        said = self.folder / "up.log"
        ports = ("--port", str(self.port), "--grpc-port", str(self.grpc_port))
        command = ("trimtab", "up", "--policy", "sky", *ports)
        with said.open("wb") as output:
            self._up = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=output, stderr=subprocess.STDOUT
            )
        try:
            deadline = time.monotonic() + _LIMIT_S
            while "stops it; the same" not in (text := said.read_text()):
                if self._up.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"`trimtab up` does not serve: {text}")
                threading.Event().wait(0.1)
            self.key = _found(r"tt-[\w-]+", text)
            self.ids["policy"] = _found(r"adopting policy (\w{12})", text)
            yield text
        finally:
            self._up.send_signal(signal.SIGTERM)
            self._up.wait(60)

    def play(self) -> str:
        """Types everything, and returns the page. Call it inside `started`."""
        scrub = Scrub(
            {
                str(self.folder): "/home/you/sky",
                f"127.0.0.1:{self.port}": "127.0.0.1:8080",
                # in a column first, which keeps its width
                f"127.0.0.1:{self.grpc_port} ": "127.0.0.1:8081".ljust(len(f"127.0.0.1:{self.grpc_port} ")),
                f"127.0.0.1:{self.grpc_port}": "127.0.0.1:8081",
            }
        )
        up = f"$ trimtab up --policy sky\n{(self.folder / 'up.log').read_text()}"
        exports = f"$ export URL=http://127.0.0.1:{self.port}/v1 KEY={self.key}\n"
        page = [_START, _block(scrub(up))]
        for part in SESSION:
            page.append(f"## {part.heading}\n\n{part.words}\n")
            typed = [f"$ {self._filled(one.command)}\n{self.type(one)}" for one in part.typed]
            page.append(_block(scrub("\n".join([exports, *typed] if part is SESSION[0] else typed))))
        return "\n".join(page)

    def type(self, typed: Typed) -> str:
        """What a command says, both streams as a terminal shows them."""
        deadline = time.monotonic() + _LIMIT_S
        while True:
            said = self.run(self._filled(typed.command))
            if typed.until in said:
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"`{typed.command}` does not come to say {typed.until!r} but: {said}")
            threading.Event().wait(0.2)
        self._note(said)
        return said if said.endswith("\n") or not said else f"{said}\n"

    def run(self, command: str) -> str:
        """One command in a shell; what it started ends with it when it takes too long."""
        done = subprocess.run(
            ("timeout", str(_LIMIT_S), "bash", "-c", command),
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode == _TIMED_OUT:
            raise RuntimeError(f"`{command}` took over {_LIMIT_S:.0f} s, and said: {done.stdout}")
        return done.stdout

    def _filled(self, command: str) -> str:
        for name, value in self.ids.items():
            command = command.replace(f"{{{name}}}", value)
        return command

    def _note(self, said: str) -> None:
        """Remembers ids for the commands that follow."""
        for name, pattern in (
            ("answer", r'"id":"(chatcmpl-[\w-]+)"'),
            ("run", r"(run-[0-9a-f]{32})"),
            ("made", r"^policy (\w{12}): "),
        ):
            if found := re.search(pattern, said, re.M):
                self.ids[name] = found[1]

    def _environment(self) -> dict[str, str]:
        own = {
            "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "URL": f"http://127.0.0.1:{self.port}/v1",
            "KEY": self.key,
            "COLUMNS": "120",
            "LOGNAME": "ann",
        }
        return os.environ | own


def write_policy(folder: pathlib.Path) -> None:
    """A chat model that knows one answer, and gives it every time."""
    import torch

    from trimtab.modeling import loading, tiny

    torch.set_num_threads(1)
    texts = [text for pair in _TAUGHT.items() for text in pair]
    tokenizer = tiny.train_bpe(texts, vocab_size=300)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=32, layers=2, heads=2, intermediate=64, context=128)
    rows = [
        tokenizer(f"{tiny.USER}{question}{tiny.END}{tiny.ASSISTANT}{ANSWER}{tiny.END}", return_tensors="pt")[
            "input_ids"
        ]
        for question in _TAUGHT
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        for ids in rows:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    loading.save_policy(model.eval(), tokenizer, loading.ServingProfile(temperature=0.0, max_tokens=32), folder)


def _write(file: pathlib.Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _block(said: str) -> str:
    return f"```\n{said.strip()}\n```\n"


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"{pattern} is not in: {text}")
    return found[found.re.groups]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="trimtab-session-") as folder:
        session = Session(pathlib.Path(folder))
        with session.started():
            page = session.play()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
        return 0
    return 0 if comparable(page) == comparable(PAGE.read_text()) else 1


if __name__ == "__main__":
    sys.exit(main())
