"""A policy that can be trained, what it is held near, and who scores it."""

import pathlib

import pytest
import torch
from tests.integration.training import making
from tests.integration.training.on_policy import bench as benches

from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import encoding
from trimtab.trainer.methods import sft
from trimtab.trainer.reward import fitting, material
from trimtab.trainer.steps import progress

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(folder_of_policy: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A policy that answers kindly or rudely as the coin falls, and a reward model that likes kind ones."""
    scratch = tmp_path_factory.mktemp("trained")
    report = progress.Progress(scratch)
    policy = loading.load_policy(folder_of_policy)
    settings = recipes.SFTSettings(optimizer="muon", matrix_lr=6e-3, epochs=25, batch=8, lr=5e-3, warmup_steps=4)
    sft.train(policy, making.demonstrations(), settings, 1, report)
    loading.save_policy(policy.model, policy.tokenizer, policy.profile, scratch / "policy")
    taught = recipes.RewardSettings(epochs=6, batch=8, lr=3e-3)
    feedback = material.prepare(
        encoding.encoder_of(policy), making.feedback(noise=0.0).of("train"), taught, encoding.Skipped()
    )
    reward, _ = fitting.fit(policy, feedback, taught, seed=1, report=report)
    rewards.save_reward_model(reward, scratch / "reward")
    return {"policy": scratch / "policy", "reward": scratch / "reward"}


@pytest.fixture
def bench(trained: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> benches.Bench:
    return benches.Bench(trained, tmp_path)
