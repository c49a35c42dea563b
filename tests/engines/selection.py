"""Which tests of engines a run of everything leaves out, and why."""

import pathlib
from collections.abc import Sequence

from tests import sweeping

VLLM = "vllm"


def left_out(asked: Sequence[str], directory: pathlib.Path) -> dict[str, str]:
    """Reasons by marker. A real vLLM keeps two cores busy for minutes, and what runs beside it waits."""
    swept = sweeping.includes(pathlib.Path(__file__).parent, asked, directory)
    return {VLLM: "`make engines-test` runs them"} if swept else {}
