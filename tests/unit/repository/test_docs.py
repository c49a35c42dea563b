"""The documentation is honest: what it links to, names, draws and shows is there."""

import ast
import contextlib
import io
import os
import pathlib
import subprocess
import sys

import pytest
from tests.unit.repository import documentation

PAGES = {path.relative_to(documentation.ROOT).as_posix(): path.read_text() for path in documentation.pages()}
RUNNABLE = {
    f"{name} {number}": block
    for name, page in PAGES.items()
    for number, block in enumerate(documentation.blocks(page), start=1)
    if "runnable" in block.info
}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    path = documentation.ROOT / name
    problems = [documentation.link_problem(path, target) for target in documentation.links(PAGES[name])]
    assert list(filter(None, problems)) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_name_that_looks_like_ours_is_there(name: str) -> None:
    page = PAGES[name]
    problems = [documentation.name_problem(span) for span in documentation.spans(page)]
    problems += [documentation.topic_problem(topic) for topic in documentation.topics_named(page)]
    problems += [documentation.command_problem(typed) for typed in documentation.commands_typed(page)]
    assert list(filter(None, problems)) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_diagram_parses_and_every_python_example_compiles(name: str) -> None:
    for block in documentation.blocks(PAGES[name]):
        if block.info == "mermaid":
            assert documentation.diagram_problem(block.body) == ""
        elif block.info.startswith("python"):
            ast.parse(block.body)


def test_every_name_in_a_module_s_docstring_is_there() -> None:
    problems = []
    for folder in ("services", "clients/python"):
        for path in sorted((documentation.ROOT / folder).rglob("*.py")):
            said = ast.get_docstring(ast.parse(path.read_text())) or ""
            names = [*map(documentation.name_problem, documentation.spans(said))]
            names += map(documentation.topic_problem, documentation.topics_named(said))
            problems += [f"{path.relative_to(documentation.ROOT)}: {problem}" for problem in names if problem]
    assert problems == []


def test_every_concept_has_one_diagram_and_is_on_the_index() -> None:
    index = PAGES["docs/concepts/README.md"]
    assert "docs/concepts/README.md" in documentation.links(PAGES["README.md"])
    for path in sorted(documentation.CONCEPTS.glob("*.md")):
        kinds = [block.info for block in documentation.blocks(path.read_text())]
        assert kinds.count("mermaid") == 1, path.name
        assert path.name == "README.md" or path.name in documentation.links(index)


@pytest.mark.parametrize("block", RUNNABLE.values(), ids=RUNNABLE)
def test_a_runnable_example_prints_what_stands_below_it(block: documentation.Block, tmp_path: pathlib.Path) -> None:
    if block.info.startswith("python"):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(block.body, "example", "exec"), {})
        said = output.getvalue()
    else:
        folder = pathlib.Path(sys.executable).parent
        environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        ended = subprocess.run(
            ["bash", "-eu", "-c", block.body],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        said = ended.stdout
    assert said == block.said


def test_there_are_runnable_examples_of_both_kinds() -> None:
    assert {block.info.split()[0] for block in RUNNABLE.values()} == {"python", "bash"}


@pytest.mark.parametrize(
    "span",
    [
        "trimtab models forget", "trimtab rollout start --gently", "trimtab ledger --speed", "make coffee",
        "POST /v1/wishes", "--no-such-flag", "TRIMTAB_NO_SUCH_THING", "trimtab_wishes_total", "trainer/wishing.py",
        "services/trimtab/wishes/", "core.ids.mintt", "trainer.wishes", "core.errors.InvalidField.wish",
        "registry.publish.before_wishing", "trimtabapi.wish.v1.WishService", "wished_for.json", "no_such_setting",
        "RunFinished", "TrainerService.Wish",
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_noticed(span: str) -> None:
    assert documentation.name_problem(span) != ""


@pytest.mark.parametrize(
    "span",
    [
        "trimtab feedback trace ID", "trimtab rollout start --force", "trimtab ledger --database", "make test",
        "GET /v1/models", "TRIMTAB_LOG_URL", "trimtab_rpc_calls_total", "trainer/reward/hub.py", "core.ids.mint",
        "core.errors.InvalidField", "registry.publish.before_manifest:3", "trimtabapi.policy.v1.PolicyService",
        "core.lines.LineConfig.trigger", "started.json", "safety_weight", "PublishedModel", "TrainerService.StartRun",
        "any words", "0.05",
    ],
)  # fmt: skip
def test_a_name_that_is_there_passes(span: str) -> None:
    assert documentation.name_problem(span) == ""


@pytest.mark.parametrize(
    "diagram",
    [
        "flowchart LR\n a[x (y)] --> b", "flowchart LR\n a --> ", "flowchart LR\n subgraph one\n a --> b", "pie\n a",
        "sequenceDiagram\n participant app\n app->>nobody: hello", "stateDiagram-v2\n a -> b",
    ],
)  # fmt: skip
def test_a_diagram_that_does_not_parse_is_noticed(diagram: str) -> None:
    assert documentation.diagram_problem(diagram) != ""


def test_a_link_or_topic_that_is_not_there_is_noticed() -> None:
    page = documentation.ROOT / "README.md"
    wrong = ("docs/wishes.md", "docs/decisions/0001-validation-in-core.md#wishes", "../../etc/hosts")
    assert all(documentation.link_problem(page, target) for target in wrong)
    assert documentation.topics_named("Of topics `models` and `wishes`, topic `audit`.") == [
        "models",
        "wishes",
        "audit",
    ]
    assert documentation.topic_problem("wishes") and not documentation.topic_problem("audit")
