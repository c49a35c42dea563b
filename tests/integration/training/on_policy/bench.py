"""What a run of an on-policy method takes, loaded anew for every test."""

import json
import pathlib
from collections.abc import Callable

from tests.integration.training import making

from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.methods import learner, on_policy, rollouts, sft
from trimtab.trainer.steps import checkpoints, progress

_QUICK = {"iterations": 6, "prompts": 6, "samples": 6, "max_tokens": 16, "lr": 3e-3}
PPO = recipes.PPOSettings(**_QUICK, critic_lr=3e-3)
METHODS: dict[str, recipes.OnPolicySettings] = {
    "ppo": PPO,
    "ppo, joint critic": recipes.PPOSettings(**_QUICK, critic="joint", critic_lr=2e-3),
    "a2c": recipes.A2CSettings(**_QUICK, critic_lr=3e-3),
    "a2c, joint critic": recipes.A2CSettings(**_QUICK, critic="joint", critic_lr=2e-3),
    "rloo": recipes.RLOOSettings(**_QUICK),
    "grpo": recipes.GRPOSettings(**_QUICK),
    "dr. grpo": recipes.GRPOSettings(**_QUICK, scale=False, aggregation="constant_length"),
}


def not_taken(method: learner.Learner, steps: list[learner.Step]) -> dict[str, float]:
    """The figures of one step on all of these answers, whose gradients stay where they are."""

    class Standing(type(method)):  # type: ignore[misc]
        def _take_step(self) -> dict[str, float]:
            return {}

    method.__class__ = Standing
    method.epochs = method.minibatches = 1
    return method.learn(steps, seed=0)


class Bench:
    def __init__(self, trained: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
        self.policy, self.reference = (loading.load_policy(trained["policy"]) for _ in range(2))
        self.reward = rewards.load_reward_model(trained["reward"])
        self.folder = folder

    @property
    def models(self) -> learner.Models:
        return learner.Models(self.policy, self.reference, self.reward)

    def double(self) -> "Bench":
        """All in float64."""
        for model in (self.policy.model, self.reference.model, self.reward.model):
            model.double()
        return self

    def train(
        self,
        settings: recipes.OnPolicySettings = PPO,
        dataset: datasets.Dataset | None = None,
        saved: checkpoints.Checkpoints | None = None,
        sampler: rollouts.Sampler | None = None,
        scorer: Callable[[int], rollouts.Scorer] | None = None,
    ) -> dict[str, float]:
        return on_policy.train(
            self.models,
            dataset or making.feedback(),
            settings=settings,
            seed=4,
            report=progress.Progress(self.folder, saved),
            sampler=sampler,
            scorer=scorer,
        )

    def steps(self) -> list[dict[str, float]]:
        lines = (self.folder / progress.METRICS_FILE).read_text().splitlines()
        return [json.loads(line)["figures"] for line in lines]

    def prompts(self) -> list[rollouts.EncodedPrompt]:
        return rollouts.encode_prompts(
            self.policy, encoding.distinct_prompts(making.feedback().of("train")), encoding.Skipped()
        )

    def drawn(self) -> list[rollouts.Drawn]:
        return rollouts.InProcess(self.policy).draw(self.prompts(), 4, 16, iteration=0, seed=9)

    def rollouts(self) -> rollouts.Rollouts:
        return rollouts.scored(self.drawn(), self.prompts(), 4, self.reward)

    def learner(
        self, settings: recipes.OnPolicySettings = PPO, demonstrations: tuple[sft.Demonstration, ...] = ()
    ) -> learner.Learner:
        return on_policy.learner_of(self.models, settings, demonstrations)

    def weights(self) -> list[object]:
        return [weight.detach().clone() for weight in self.policy.model.parameters()]
