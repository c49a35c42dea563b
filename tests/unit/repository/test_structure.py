"""Limits on the code's shape that the linters do not know."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3]
OURS = ("services", "clients/python", "tests", "tools")
LONGEST_FUNCTION, LONGEST_MODULE, MOCKS_PER_1000_LINES = 80, 500, 5
ALLOWED_PROTOBUF = re.compile(r"services/trimtab/(wire/\w+|\w+/servicer)\.py$|clients/python/|tests/")


def modules() -> list[pathlib.Path]:
    return [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_function_over_80_lines_and_no_module_over_500() -> None:
    giants = []
    for path in modules():
        source = path.read_text()
        if source.count("\n") > LONGEST_MODULE:
            giants.append(name_of(path))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    giants.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert giants == []


def test_every_module_of_the_product_says_what_it_is() -> None:
    silent = [
        name_of(path)
        for path in modules()
        if path.read_text().strip() and "tests" not in path.parts and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_protobuf_is_known_to_wire_servicers_and_client_only() -> None:
    leaks = [
        name_of(path)
        for path in modules()
        if re.search(r"^\s*(from|import) .*trimtabapi", path.read_text(), re.M)
        and not ALLOWED_PROTOBUF.search(name_of(path))
    ]
    assert leaks == []


def test_no_launcher_or_settings_imports_torch_when_imported() -> None:
    heavy = []
    for path in modules():
        if path.name not in ("app.py", "settings.py"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom) and re.search(
                r"\b(torch|transformers)\b|trimtab\.modeling", ast.unparse(node)
            ):
                heavy.append(name_of(path))
    assert heavy == []


def test_mocks_stay_within_five_per_thousand_test_lines() -> None:
    lines = mocks = 0
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path == pathlib.Path(__file__):
            continue
        source = path.read_text()
        lines += source.count("\n")
        mocks += len(re.findall(r"\b(Mock|MagicMock|AsyncMock|patch)\(|monkeypatch\.setattr", source))
    assert mocks * 1000 <= lines * MOCKS_PER_1000_LINES
