"""What the documentation claims, taken apart: links, names in backticks, commands, diagrams, runnable examples.

Each `..._problem` says in a sentence what is wrong with one claim, or nothing when it holds against the tree.
"""

import ast
import functools
import importlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import typer.main

from trimtab.bus import topics
from trimtab.cli import app
from trimtab.cli.commands import root

ROOT = pathlib.Path(__file__).parents[3]
CONCEPTS = ROOT / "docs" / "concepts"
PRODUCT = ("services/trimtab", "clients/python", "protos/trimtabapi")
_FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=ticks)[ \t]*$\n?", re.M | re.S)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_TOPICS = re.compile(r"\b[Tt]opics? ((?:(?:, | and | or )?`\w+`)+)")
_FILE = r"[\w.-]+\.(?:py|pyi|proto|md|toml|json|jsonl|sqlite|db|txt|log)"
_COMMAND = re.compile(r"^\s*\$?\s*((?:\.venv/bin/)?trimtab|make) ([a-z].*?)(?:\s+#.*)?$", re.M)


class Block(NamedTuple):
    """A fenced block. said: the text block that follows it at once, which is what a runnable one prints."""

    info: str
    body: str
    said: str | None


def pages() -> list[pathlib.Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "clients").rglob("README.md"))]


def blocks(page: str) -> list[Block]:
    found = list(_FENCE.finditer(page))
    follows = {one.start(): one["body"] for one in found if one["info"].strip() == "text"}
    return [Block(one["info"].strip(), one["body"], follows.get(_next_line(page, one.end()))) for one in found]


def _next_line(page: str, position: int) -> int:
    return position + len(page[position:]) - len(page[position:].lstrip("\n"))


def prose(page: str) -> str:
    return _FENCE.sub("\n", page)


def spans(page: str) -> list[str]:
    """What stands in backticks, on one line each."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(page))]


def commands_typed(page: str) -> list[str]:
    """Lines of fenced blocks that a reader types."""
    return [" ".join(parts) for block in blocks(page) for parts in _COMMAND.findall(block.body)]


def topics_named(page: str) -> list[str]:
    return [name for names in _TOPICS.findall(prose(page)) for name in _SPAN.findall(names)]


def links(page: str) -> list[str]:
    return [target for target in _LINK.findall(_SPAN.sub("", prose(page))) if "://" not in target]


def link_problem(page: pathlib.Path, target: str) -> str:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    if not found.exists() or not found.is_relative_to(ROOT):
        return f"the link to {target} leads nowhere"
    if anchor and anchor not in _anchors(found.read_text()):
        return f"the link to {target} names no heading there"
    return ""


def _anchors(page: str) -> set[str]:
    """Headings as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def topic_problem(name: str) -> str:
    return "" if name in topics.ALL else f"there is no topic {name!r}"


def name_problem(span: str) -> str:
    """Whether what stands in backticks is there, as far as it looks like something of ours: the first rule it fits."""
    for pattern, judge in _RULES:
        if found := re.fullmatch(pattern, span.removesuffix("()")):
            return judge(found)
    return ""


def _absent(is_there: bool, what: str) -> str:
    return "" if is_there else f"there is no {what}"


def _variable_problem(found: re.Match[str]) -> str:
    return _absent(bool({found[0], found[1].lower()} & _words()), f"setting {found[0]}")


def _metric_problem(found: re.Match[str]) -> str:
    return _absent(f'"{found[0]}"' in _source("services/trimtab/obs/metrics.py"), f"metric {found[0]}")


def _path_problem(found: re.Match[str]) -> str:
    return _absent(found[1] not in _folders() or _is_path(found[0]), found[0])


# What a span looks like, and whether it is there.
_RULES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"(?:\.venv/bin/)?(?:trimtab|make) [a-z].*", lambda found: command_problem(found[0])),
    (
        r"(?:(?:GET|POST) )?(/(?:v1|healthz|readyz)\S*)",
        lambda found: _absent(found[1] in _routes(), f"route {found[1]}"),
    ),
    (r"--[a-z-]+", lambda found: _absent(found[0] in _every_flag(), f"flag {found[0]}")),
    (r"TRIMTAB_([A-Z_]+)", _variable_problem),
    (r"trimtab_(?!client)\w+", _metric_problem),
    (r"([\w.-]+)(?:/[\w.-]*)+", _path_problem),
    (_FILE, lambda found: _absent(found[0] in _file_names() or found[0] in _product(), found[0])),
    (r"([A-Za-z_]\w*(?:\.\w+)+)(?::\d+)?", lambda found: _dotted_problem(found[1])),
    (r"[A-Za-z]\w*_\w+|[A-Z][a-z]+[A-Z]\w*", lambda found: _absent(found[0] in _words(), found[0])),
]


def command_problem(typed: str) -> str:
    """Whether a reader who types this gets what the page says: verbs and flags exist."""
    program, *rest = typed.split()
    if program == "make":
        verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        return "" if rest[0] in verbs else f"there is no `make {rest[0]}`"
    if rest[0] in app.PROCESSES and (len(rest) == 1 or rest[1].startswith("-")):
        return _flag_problem(typed, rest, _settings_flags(rest[0]))
    command: Any = typer.main.get_command(root.app)
    for word in rest:
        if not hasattr(command, "commands"):
            break
        if word not in command.commands:
            return f"there is no `trimtab` command for `{typed}`"
        command = command.commands[word]
    return _flag_problem(typed, rest, {flag for one in command.params for flag in one.opts} | {"--help"})


def _flag_problem(typed: str, words: list[str], known: set[str]) -> str:
    unknown = [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in known]
    return f"`{typed}` has no flag {unknown[0]}" if unknown else ""


@functools.cache
def _settings_flags(process: str) -> set[str]:
    settings = importlib.import_module(f"trimtab.{process}.settings")
    fields = getattr(settings, f"{process.title()}Settings").model_fields
    return {"--" + field.replace("_", "-") for field in fields} | {"--help"}


@functools.cache
def _every_flag() -> set[str]:
    flags = set().union(*(_settings_flags(process) for process in app.PROCESSES))

    def walk(command: Any) -> Iterator[str]:
        for one in command.params:
            yield from one.opts
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)

    return flags | set(walk(typer.main.get_command(root.app)))


def _dotted_problem(word: str) -> str:
    """`package.module.name`, a failpoint, or something whose every part is a word of the product."""
    first, second = word.split(".")[:2]
    packages = ROOT / "services" / "trimtab"
    if f'failpoints.reach("{word}")' in _product():
        return ""
    ours = first in ("trimtabapi", "trimtab_client") or (packages / first).is_dir()
    if ours or (first == "trimtab" and (packages / second).is_dir()):
        return "" if _resolves(word) else f"{word} leads nowhere"
    missing = [part for part in word.split(".") if part not in _words()]
    return f"{missing[0]} of {word} is nowhere in the product" if missing else ""


def _resolves(word: str) -> bool:
    parts = word.split(".")
    if parts[0] == "trimtabapi":
        return word.rpartition(".")[2] in _words() and (ROOT / "protos" / "/".join(parts[:-1])).is_dir()
    place = ROOT / ("clients/python" if parts[0] == "trimtab_client" else "services")
    if parts[0] not in ("trimtab", "trimtab_client"):
        place = place / "trimtab"
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / f"{parts[0]}.py" if parts else place / "__init__.py"
    if parts and module.exists():
        parts.pop(0)
    else:
        module = place / "__init__.py"
    return module.exists() and _has(ast.parse(module.read_text()).body, parts)


def _has(body: list[ast.stmt], parts: list[str]) -> bool:
    if not parts:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == parts[0]:
            return _has(node.body, parts[1:])
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == parts[0] for target in targets):
            return len(parts) == 1
        if isinstance(node, ast.ImportFrom) and any((one.asname or one.name) == parts[0] for one in node.names):
            return True
    return False


@functools.cache
def _product() -> str:
    """All source of the product as one text."""
    found = [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*"))]
    return "\n".join(path.read_text() for path in found if path.suffix in (".py", ".proto"))


@functools.cache
def _words() -> set[str]:
    return set(re.findall(r"\w+", _product()))


def _source(path: str) -> str:
    return (ROOT / path).read_text()


@functools.cache
def _routes() -> set[str]:
    return set(re.findall(r'routing\.Route\("([^"]+)"', _source("services/trimtab/gateway/routes.py")))


@functools.cache
def _folders() -> set[str]:
    """First parts of paths that are ours: at the top of the tree, or a package of the services."""
    return {path.name for place in (ROOT, ROOT / "services" / "trimtab") for path in place.iterdir() if path.is_dir()}


def _is_path(word: str) -> bool:
    return any((ROOT / place / word).exists() for place in ("", "services", "services/trimtab"))


@functools.cache
def _file_names() -> set[str]:
    return {path.name for place in (*PRODUCT, "docs", "tests") for path in (ROOT / place).rglob("*")} | {
        path.name for path in ROOT.iterdir()
    }


_NODE = r'\w+(?:\["[^"]+"\]|\[[\w -]+\]|\(\[[^\[\]()"]+\]\)|\[\((?:"[^"]+"|[^\[\]()"]+)\)\])?'
_ARROW = r'(?:-->|-\.->)(?:\|(?:"[^"|]+"|[^"|()\[\]{}]+)\|)?'
_LINES = {
    "flowchart": rf'subgraph \w+(?:\["[^"]+"\])?|end|{_NODE}(?: {_ARROW} {_NODE})*',
    "sequenceDiagram": r"participant \w+(?: as [^;#]+)?|\w+-?->>\w+: [^;#]+",
    "stateDiagram-v2": r"(?:\[\*\]|\w+) --> (?:\[\*\]|\w+)(?:: [^;#:]+)?",
}


def diagram_problem(body: str) -> str:
    """Mermaid's grammar, as far as these pages use it: anything else is refused, also what Mermaid would take."""
    first, *lines = [line.strip() for line in body.splitlines() if line.strip()]
    kind = first.split()[0]
    if kind not in _LINES:
        return f"{first!r} is no diagram that these pages use"
    for line in lines:
        if not re.fullmatch(_LINES[kind], line):
            return f"{line!r} is no line of a {kind}"
    if sum(line.startswith("subgraph ") for line in lines) != lines.count("end"):
        return "a subgraph has no end"
    people = {line.split()[1] for line in lines if line.startswith("participant ")}
    for line in lines:
        if kind == "sequenceDiagram" and "->>" in line:
            unknown = set(re.split(r"-?->>", line.partition(":")[0])) - people
            if unknown:
                return f"{unknown.pop()!r} takes no part in the diagram"
    return ""
