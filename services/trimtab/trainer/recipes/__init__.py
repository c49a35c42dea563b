"""Settings of each training method.

A run's spec carries what differs from them as a flat JSON object (`settings_json`): the service refuses a bad one
before the run is queued, the job parses the same text again, the published manifest holds the resolved values.
Standard library only: the service imports this. Learning rates are the field's for all weights of a model of 1 to 8
billion; the demo's half a million weights want about a thousand times as much (`cli.demo.app`).
"""

from trimtab.trainer.recipes.base import PolicySettings, RunSettings
from trimtab.trainer.recipes.direct import DirectSettings, DPOSettings, KTOSettings
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
from trimtab.trainer.recipes.splitting import check_processes
from trimtab.trainer.recipes.supervised import PretrainSettings, SFTSettings

__all__ = [
    "METHODS",
    "A2CSettings",
    "ClippedSettings",
    "CriticSettings",
    "DPOSettings",
    "DirectSettings",
    "GRPOSettings",
    "KTOSettings",
    "Method",
    "OnPolicySettings",
    "PPOSettings",
    "PolicySettings",
    "PretrainSettings",
    "RLOOSettings",
    "RewardSettings",
    "RunSettings",
    "SFTSettings",
    "Settings",
    "check_processes",
    "parse",
]
