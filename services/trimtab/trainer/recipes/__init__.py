"""Settings of each training method, with defaults that suit a policy of half a million weights on one core.

A run's spec carries what differs from them as a flat JSON object (`settings_json`): the service refuses a bad one
before the run is queued, the job parses the same text again, the published manifest holds the resolved values.
Standard library only: the service imports this. Larger models want learning rates of a tenth to a hundredth of these.
"""

from trimtab.trainer.recipes.base import PolicySettings, RunSettings
from trimtab.trainer.recipes.on_policy import (
    A2CSettings,
    ClippedSettings,
    CriticSettings,
    GRPOSettings,
    OnPolicySettings,
    PPOSettings,
    RLOOSettings,
)
from trimtab.trainer.recipes.parsing import METHODS, Method, Settings, parse
from trimtab.trainer.recipes.reward import RewardSettings
from trimtab.trainer.recipes.supervised import SFTSettings

__all__ = [
    "METHODS",
    "A2CSettings",
    "ClippedSettings",
    "CriticSettings",
    "GRPOSettings",
    "Method",
    "OnPolicySettings",
    "PPOSettings",
    "PolicySettings",
    "RLOOSettings",
    "RewardSettings",
    "RunSettings",
    "SFTSettings",
    "Settings",
    "parse",
]
