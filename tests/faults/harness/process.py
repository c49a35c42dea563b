"""A process of the platform as `trimtab` starts it, but for what the environment says: another clock, a slow consumer,
one of a later version, a wrong design.

python -m tests.faults.harness.process PROGRAM FLAGS
"""

import os
import pathlib
import sys

CLOCK, PACE, LATER, MUTANT = "HARNESS_CLOCK", "HARNESS_PACE", "HARNESS_LATER", "HARNESS_MUTANT"


def main() -> None:
    if file := os.environ.get(CLOCK):
        from tests.faults.harness import clocks

        clocks.turn(pathlib.Path(file))
    if file := os.environ.get(PACE):
        from tests.faults.harness import changing

        changing.slow_down(pathlib.Path(file))
    if os.environ.get(LATER):
        from tests.faults.harness import changing

        changing.read_next_version()
    if name := os.environ.get(MUTANT):
        from tests.faults.harness import mutants

        mutants.ALL[name].make()
    from trimtab.cli import app

    app.main()


if __name__ == "__main__":
    sys.exit(main())
