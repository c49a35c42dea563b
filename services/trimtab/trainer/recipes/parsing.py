"""The methods of training, and from the JSON of a run's spec to the settings of its method."""

import dataclasses
import json
from typing import Any, TypeVar

from trimtab.core import errors, runs
from trimtab.trainer.recipes import base, direct, on_policy, reward, supervised

Settings = (
    supervised.SFTSettings
    | supervised.PretrainSettings
    | reward.RewardSettings
    | on_policy.OnPolicySettings
    | direct.DPOSettings
    | direct.KTOSettings
)


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A kind of run. needs: the fields of its spec that name an input it cannot do without; what: for people."""

    settings: type[Settings]
    needs: tuple[str, ...]
    what: str


_ON_POLICY = ("parent_id", "dataset_id", "reference_id", "reward_id")

METHODS: dict[runs.RunKind, Method] = {
    runs.RunKind.SFT: Method(supervised.SFTSettings, ("parent_id", "dataset_id"), "a policy from demonstrations"),
    # Without a data set it gets one of all the line's examples, cut when it starts.
    runs.RunKind.REWARD: Method(reward.RewardSettings, ("parent_id",), "a reward model from feedback"),
    runs.RunKind.PPO: Method(
        on_policy.PPOSettings, _ON_POLICY, "a policy from its own answers, a reward model and a critic"
    ),
    runs.RunKind.A2C: Method(on_policy.A2CSettings, _ON_POLICY, "the same, in plain steps without clipping"),
    runs.RunKind.RLOO: Method(
        on_policy.RLOOSettings, _ON_POLICY, "a policy from several answers to each prompt, each against the others"
    ),
    runs.RunKind.GRPO: Method(on_policy.GRPOSettings, _ON_POLICY, "the same, in units of the group's deviation"),
    runs.RunKind.DPO: Method(
        direct.DPOSettings, ("parent_id", "dataset_id", "reference_id"), "a policy from pairs and edits"
    ),
    runs.RunKind.KTO: Method(
        direct.KTOSettings, ("parent_id", "dataset_id", "reference_id"), "a policy from thumbs, and pairs taken apart"
    ),
    runs.RunKind.PRETRAIN: Method(supervised.PretrainSettings, ("parent_id", "dataset_id"), "a base from plain text"),
}


def parse(kind: runs.RunKind, settings_json: str) -> Settings:
    """The settings of a method. InvalidField names the key that is wrong."""
    try:
        table = json.loads(settings_json or "{}")
    except ValueError as problem:
        raise errors.InvalidField("settings_json", f"is no JSON ({problem})", "send an object of settings") from problem
    if not isinstance(table, dict):
        raise errors.InvalidField("settings_json", f"is {table!r}", "send an object of settings")
    defaults = METHODS[kind].settings()
    known = sorted(field.name for field in dataclasses.fields(defaults))
    for key, value in table.items():
        if key not in known:
            raise errors.InvalidField(f"settings_json.{key}", "is not a setting", f"use one of {', '.join(known)}")
        table[key] = _typed(getattr(defaults, key), value, key)
    settings = dataclasses.replace(defaults, **table)
    try:
        settings.check()
    except base.OutOfRange as problem:
        raise errors.InvalidField(f"settings_json.{problem.key}", problem.what, problem.remedy) from None
    return settings


T = TypeVar("T", str, int, float, bool)


def _typed(default: T, value: Any, key: str) -> T:
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return wanted(value)
    if type(value) is not wanted:
        raise errors.InvalidField(f"settings_json.{key}", f"is {value!r}", f"give a value of type {wanted.__name__}")
    return value
