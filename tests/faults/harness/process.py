"""A process of the platform as `trimtab` starts it, but for what the environment says: another clock, a slow consumer,
one of a later version, a place to stand still at, scores that are no numbers, a wrong design.

python -m tests.faults.harness.process PROGRAM FLAGS
"""

import os
import pathlib
import sys

# Files that say what to do; a flag; the name of a mutant.
CLOCK, PACE, PAUSE, NAN = "HARNESS_CLOCK", "HARNESS_PACE", "HARNESS_PAUSE", "HARNESS_NAN"
LATER, MUTANT = "HARNESS_LATER", "HARNESS_MUTANT"


def main() -> None:
    if file := os.environ.get(CLOCK):
        from tests.faults.harness import clocks

        clocks.turn(pathlib.Path(file))
    if file := os.environ.get(PACE):
        from tests.faults.harness import disturbing

        disturbing.slow_down(pathlib.Path(file))
    if os.environ.get(LATER):
        from tests.faults.harness import disturbing

        disturbing.read_next_version()
    if file := os.environ.get(PAUSE):
        from tests.faults.harness import disturbing

        disturbing.pause_at(pathlib.Path(file))
    if file := os.environ.get(NAN):
        from tests.faults.harness import disturbing

        disturbing.say_nan(pathlib.Path(file))
    if name := os.environ.get(MUTANT):
        from tests.faults.harness import mutants, wrong_training

        mutant = {**mutants.ALL, **wrong_training.ALL}[name]
        if sys.argv[1] in mutant.program.split():
            mutant.make()
    from trimtab.cli import app

    app.main()


if __name__ == "__main__":
    sys.exit(main())
