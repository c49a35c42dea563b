"""Makes all that a Kubernetes for tests needs and that is not there yet, and says how far it is.

`make kubernetes-test` begins with it, since pytest shows nobody what a test says while it waits for so long. CI begins
with `--control-plane`: what the tests need that it always runs.
"""

import argparse

from tests.kubernetes import services
from tests.kubernetes.tools import binaries, packages


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes.prepare", description=__doc__)
    parser.add_argument("--control-plane", action="store_true", help="The control plane and kwok alone: no node.")
    if parser.parse_args().control_plane:
        binaries.folder(binaries.CONTROL_PLANE)
        return
    packages.for_a_node()
    for piece in binaries.ALL:
        binaries.folder(piece)
    services.main()


if __name__ == "__main__":
    main()
