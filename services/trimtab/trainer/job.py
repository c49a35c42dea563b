"""One training run: `python -m trimtab.trainer.job RUN_FOLDER`. A launcher: the methods are in modules of their own.

Reads `started.json`, which is all a run depends on: the same record gives the same bytes of weights on the same kind
of CPU, thread count and library versions. Leaves `progress.json`, `metrics.jsonl` and `checkpoints/` while it works,
`result.json` and `outputs/` at the end (exit 0), or `problem.txt` with a sentence when the run cannot succeed (exit 2),
or not now (exit 3): another process is away, or the disk is full.
Anything else is a defect and ends with a traceback. SIGTERM and SIGKILL end it at once: what counts is written last,
and started again in the same folder it goes on from its last checkpoint. The other side of the folder is
`trainer.runs.jobs`.

Under torchrun each of its processes runs the job (`trainer.steps.sharded`); the first clears the folder, tells, judges
and writes. `trainer.launch` starts it so; `torchrun --standalone --nproc-per-node N -m trimtab.trainer.job RUN_FOLDER`
does the same by hand.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import platform
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from trimtab.core import errors, failpoints, files
from trimtab.obs import logging
from trimtab.trainer import recipes, record

if TYPE_CHECKING:
    from trimtab.trainer.steps import ranks


def main(argv: list[str] | None = None) -> None:
    """Runs the job of a folder; exit code 2 is a problem that a person can solve, 3 one that may pass."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.exit("usage: python -m trimtab.trainer.job RUN_FOLDER")
    folder = pathlib.Path(arguments[0])
    logging.configure("job", "info")
    if os.environ.get(record.RANK, "0") == "0":
        for stale in (record.RESULT, record.PROBLEM):
            (folder / stale).unlink(missing_ok=True)
        shutil.rmtree(folder / record.OUTPUTS, ignore_errors=True)
    try:
        run(folder)
    except errors.ServiceUnavailable as problem:
        _say(folder, problem)
        sys.exit(record.NOT_NOW_EXIT)
    except errors.TrimtabError as problem:
        _say(folder, problem)
        sys.exit(record.KNOWN_PROBLEM_EXIT)
    except Exception as problem:
        if not _says_disk_full(problem):
            raise
        sys.exit(record.NOT_NOW_EXIT)


def _say(folder: pathlib.Path, problem: errors.TrimtabError) -> None:
    """Of several processes that meet a problem the first to come says it: whoever ends first has the others ended."""
    with contextlib.suppress(FileExistsError), (folder / record.PROBLEM).open("x") as said:
        said.write(f"{problem}\n")


def _says_disk_full(problem: Exception) -> bool:
    """safetensors and tokenizers say so in words alone."""
    return getattr(problem, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(problem)


def run(folder: pathlib.Path) -> None:
    """Runs the job to its result. TrimtabError when it cannot succeed."""
    together = _join()
    started = record.read(folder)
    settings = recipes.parse(started.kind, started.settings_json)
    recipes.check_processes(started.kind, settings, 1 if together is None else together.size)
    # torch is imported only now: a refused record costs nothing
    make_deterministic(settings.threads, started.seed)
    from trimtab.trainer import building
    from trimtab.trainer.steps import checkpoints, progress, ranks

    known, among = versions(), together or ranks.ALONE
    saved = checkpoints.Checkpoints(folder, (folder / record.STARTED).read_bytes(), known, among)
    result = building.build(started, settings, folder, progress.Progress(folder, saved, among), among)
    if result is None:
        return
    document = {
        "outputs": [{**dataclasses.asdict(one), "passed": one.passed} for one in result.outputs],
        "figures": result.figures,
        "settings": dataclasses.asdict(settings),
        "versions": {**known, record.PROCESSES: record.processes_text(saved.processes or [among.size])},
    }
    for path in (folder / record.OUTPUTS).rglob("*"):
        files.sync(path)
    failpoints.reach("trainer.job.before_result")
    files.replace(folder / record.RESULT, json.dumps(document))
    failpoints.reach("trainer.job.before_end")


def _join() -> "ranks.Ranks | None":
    """The processes that torchrun started beside this one; None where there is none. All are here before one may refuse
    the run, so that the first has cleared the folder by then."""
    if int(os.environ.get(record.WORLD_SIZE, "1")) == 1:
        return None
    from trimtab.trainer.steps import sharded

    return sharded.join()


def make_deterministic(threads: int, seed: int) -> None:
    """The same record, the same weights: one seed, deterministic kernels, a fixed number of threads."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # filling every new tensor costs a run 1 to 6 % of its time, and nothing reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property torch hides
    torch.manual_seed(seed)
    transformers.logging.disable_progress_bar()


def versions() -> dict[str, str]:
    """What bit-equality depends on beside the record: libraries, and the CPU with the instructions torch uses of it."""
    import torch

    packages = {name: metadata.version(name) for name in ("trimtab", "torch", "transformers", "tokenizers")}
    return {
        **packages,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> str:
    """The CPU's own name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


if __name__ == "__main__":
    main()
