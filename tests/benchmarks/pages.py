"""Pages of figures: what is measured stands between marks of its part, and the words around them stay."""

import pathlib

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "benchmarks"


def put(page: pathlib.Path, text: str, part: str = "measured") -> None:
    """Replaces what was measured before. ValueError when the page lacks the part's marks."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    said = page.read_text()
    page.write_text(f"{said[: said.index(begin)]}{begin}\n{text}\n{said[said.index(end) :]}")
