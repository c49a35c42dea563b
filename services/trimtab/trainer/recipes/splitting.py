"""Which runs several processes can take together. Checked before a run is queued, and by its job."""

from trimtab.core import errors, runs
from trimtab.trainer.recipes import parsing, reward

# The methods whose steps learn from given examples, each a term of its own in the step's sum.
_SPLIT = (runs.RunKind.SFT, runs.RunKind.REWARD, runs.RunKind.DPO)
_SAMPLING = (runs.RunKind.PPO, runs.RunKind.A2C, runs.RunKind.RLOO, runs.RunKind.GRPO)


def check_processes(kind: runs.RunKind, settings: parsing.Settings, processes: int, where: str = "") -> None:
    """InvalidField names what so many processes cannot do together. where: what the field's name begins with."""
    if processes == 1:
        return
    if kind in _SAMPLING:
        raise errors.InvalidField(
            f"{where}kind",
            f"is {kind.value}, which draws its own answers and runs in one process",
            "set --job-processes to 1",
        )
    if kind not in _SPLIT:
        splits = ", ".join(one.value for one in _SPLIT)
        remedy = f"set --job-processes to 1, or choose one of {splits}"
        raise errors.InvalidField(f"{where}kind", f"is {kind.value}, whose steps are not split over processes", remedy)
    if settings.optimizer == "muon":
        raise errors.InvalidField(
            f"{where}settings_json.optimizer",
            f"is 'muon', which needs whole matrices, and each of {processes} processes holds a slice of every one",
            "use adamw, or set --job-processes to 1",
        )
    if isinstance(settings, reward.RewardSettings) and not settings.train_body:
        raise errors.InvalidField(
            f"{where}settings_json.train_body",
            f"is false: a head alone is fitted at once and cannot be split over {processes} processes",
            "leave it true, or set --job-processes to 1",
        )
