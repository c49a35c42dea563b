"""Kills a process at a failpoint: a child, forked from a prepared one so that it costs little, runs a function and dies
where it was told to. What it leaves behind is what a crash of the real process would leave.

A module of tests says in `WALKED` which failpoints it kills at; `test_failpoints.py` sees that none is left out.
"""

import ast
import functools
import multiprocessing
import pathlib
import signal
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from trimtab.core import failpoints

ROOT = pathlib.Path(__file__).parents[2]
_LIMIT_S = 120.0
FORKED = multiprocessing.get_context("forkserver")
# What takes long to import is there before the first child is.
FORKED.set_forkserver_preload(
    [
        "pytest",
        "trimtab.cli.machine.artifacts",
        "torch._dynamo",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        *(
            f"trimtab.{name}"
            for name in ("trainer.app", "trainer.building", "trainer.steps.sharded", "trainer.methods.sft")
        ),
        *(f"trimtab.{name}.app" for name in ("feedback", "ledger", "policy", "rollout")),
    ]
)


@functools.cache
def points() -> dict[str, str]:
    """Every failpoint of the services, with the module that has it. Each name stands in one place only."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "services").rglob("*.py")):
        if "failpoints.reach" not in (source := path.read_text()):
            continue  # every child asks; parsing them all takes more than a second
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: a failpoint's name is no literal"
                assert name.value not in found, f"{path}:{node.lineno}: {name.value} stands in {found[name.value]} too"
                found[name.value] = path.relative_to(ROOT / "services").as_posix()
    return found


def under(*prefixes: str) -> list[str]:
    """The failpoints whose names begin so."""
    return [name for name in points() if name.startswith(prefixes)]


def run(act: Callable[..., object], *arguments: object) -> None:
    """Runs a function of a module in a process of its own, to its end."""
    _finish(act, arguments, "")


def kill(at: str, act: Callable[..., object], *arguments: object) -> None:
    """Runs it until it dies at a failpoint ("NAME" or "NAME:3"); fails when it never came there."""
    _finish(act, arguments, at)


def _finish(act: Callable[..., object], arguments: tuple[object, ...], dies_at: str) -> None:
    heard, says = FORKED.Pipe(duplex=False)
    child = FORKED.Process(target=_act, args=(says, dies_at, act, arguments))
    child.start()
    says.close()
    said = "It did not end in time."
    if heard.poll(_LIMIT_S):
        try:
            said = heard.recv()
        except EOFError:
            said = "It said nothing."
    child.kill() if said.startswith("It did not") else child.join(_LIMIT_S)
    child.join()
    heard.close()
    if dies_at:
        assert child.exitcode == -signal.SIGKILL, f"It did not die at {dies_at}. {said}"
    else:
        assert child.exitcode == 0, said


def _act(says: connection.Connection, dies_at: str, act: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if dies_at:
        failpoints.arm(dies_at)
    try:
        act(*arguments)
    except BaseException:
        says.send(traceback.format_exc())
        raise
