"""Wrong designs of training and publishing that the harness must catch, made in real processes like `mutants`."""

import contextlib
import math
from collections.abc import Iterator

from tests.faults.harness.mutants import Mutant


def _forgetful_checkpoint() -> None:
    from trimtab.trainer.steps import optim

    optim.Optimizer.put_back = lambda self, tensors, counters: None  # type: ignore[method-assign]


def _trusting_load() -> None:
    from trimtab.registry import store

    store._difference = lambda folder, manifest: ""


def _unfenced() -> None:
    from trimtab.core import models
    from trimtab.registry import fence

    @contextlib.contextmanager
    def open_to_all(self: fence.Fence, tenant: str, line: str, generation: int) -> Iterator[None]:
        yield

    fence.Fence.passing = open_to_all  # type: ignore[method-assign]
    models.Fence.admits = lambda self, model, offset: True  # type: ignore[method-assign]


def _missing_is_zero() -> None:
    from trimtab.core import scoring

    scoring.finite = lambda outcome: outcome if isinstance(outcome, float) and math.isfinite(outcome) else 0.0


ALL = {
    "forgetful": Mutant(
        "a checkpoint without the optimizer's state", "job", "sqlite", 2, "unequal", _forgetful_checkpoint
    ),
    "trusting": Mutant("a load that checks no digest", "policy", "sqlite", 11, "served", _trusting_load),
    "unfenced": Mutant(
        "a publish that does not check the lease's generation", "trainer reward", "sqlite", 12, "stale", _unfenced
    ),
    "zero": Mutant("a score that is missing counts as zero", "job", "sqlite", 18, "invented", _missing_is_zero),
}
