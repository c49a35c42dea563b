"""What a run of everything leaves out: it includes a folder without naming it, and who names it gets its tests."""

import pathlib
from collections.abc import Sequence


def includes(folder: pathlib.Path, asked: Sequence[str], directory: pathlib.Path) -> bool:
    """Whether a run of these files and folders, asked for in `directory`, includes `folder` and names nothing of it."""
    paths = [(directory / one.partition("::")[0]).resolve() for one in asked]
    named = any(path.is_relative_to(folder) for path in paths)
    return not named and any(folder.is_relative_to(path) for path in paths)
