"""What a shell offers for an id: read from the state folder's files, at once and without the platform.

Ids of models are offered short, as commands take them. A state folder that cannot be read offers nothing.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import typer

STATE = pathlib.Path(".trimtab")
_SHORT = 12
_POLICIES = frozenset({"policy", "base"})
_ARMS = ("stable", "candidate")


def models(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Every model and data set that begins so, with what it is."""
    return list(_models(context, incomplete))


def policies(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Every policy that begins so."""
    return list(_models(context, incomplete, _POLICIES))


def served(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The arms of a line, and every policy."""
    arms = [(arm, "the line's") for arm in _ARMS if arm.startswith(incomplete)]
    return [*arms, *_models(context, incomplete, _POLICIES)]


def rewards(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Every reward model that begins so."""
    return list(_models(context, incomplete, frozenset({"reward", "evaluation_reward"})))


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Every run that begins so, whatever became of it."""
    folder = _state(context) / "trainer" / "runs"
    return sorted(path.name for path in folder.glob("*") if path.name.startswith(incomplete))


def _models(context: typer.Context, incomplete: str, kinds: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    for path in sorted((_state(context) / "registry" / "manifests").glob("*.json")):
        if path.stem.startswith(incomplete) and path.stem[0] != ".":
            kind, line = _card(path)
            if not kinds or kind in kinds:
                yield path.stem[: max(_SHORT, len(incomplete))], f"{kind} of line {line}".replace("_", " ")


def _card(path: pathlib.Path) -> tuple[str, str]:
    """(kind, line) of a manifest; empty for one that cannot be read."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        return str(document["kind"]), str(document["line"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _state(context: typer.Context) -> pathlib.Path:
    return pathlib.Path(context.params.get("state") or STATE)
