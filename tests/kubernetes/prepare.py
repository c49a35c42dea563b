"""Makes all that a Kubernetes for tests needs and that is not there yet, and says how far it is.

`make kubernetes-test` begins with it, since pytest shows nobody what a test says while it waits for so long.
"""

from tests.kubernetes import services
from tests.kubernetes.tools import binaries, packages


def main() -> None:
    packages.for_a_node()
    for piece in binaries.ALL:
        binaries.folder(piece)
    services.main()


if __name__ == "__main__":
    main()
