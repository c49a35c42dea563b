"""Which tests of Kubernetes a run of everything leaves out, and why. Who names them gets them, or an error."""

import functools
import pathlib
from collections.abc import Sequence

from tests import sweeping
from tests.kubernetes import traces
from tests.kubernetes.tools import binaries

# Markers, and what tests that have them need.
CONTROL_PLANE, REAL_NODE, INSTALLED = "kubernetes", "real_node", "installed"
_NO_IMAGES = "the images of this state of the code are not built (`make kubernetes-test` builds them)"
_NOT_BUILT = "their programs are not built (`make kubernetes-test` builds them, once)"


def left_out(asked: Sequence[str], directory: pathlib.Path) -> dict[str, str]:
    """Reasons by marker, of a run of these files and folders. Nothing when it is none of its business."""
    if not sweeping.includes(pathlib.Path(__file__).parent, asked, directory):
        return {}
    if not binaries.are_built(binaries.CONTROL_PLANE):
        return dict.fromkeys((CONTROL_PLANE, REAL_NODE, INSTALLED), _NOT_BUILT)
    if reason := traces.impossible():
        return dict.fromkeys((REAL_NODE, INSTALLED), reason)
    if not binaries.are_built(*binaries.NODE):
        return dict.fromkeys((REAL_NODE, INSTALLED), _NOT_BUILT)
    return {} if _are_built() else {INSTALLED: _NO_IMAGES}


@functools.cache
def _are_built() -> bool:
    from tests.kubernetes import services  # what it needs takes half a second, of every run of one test

    return services.are_built()
