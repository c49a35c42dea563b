"""From a run's inputs to its models: loads what the run names, trains by its method, judges, writes the outputs.

Dispatched by `trainer.job`; the methods are in `trainer.methods` and `trainer.reward`.
"""

import dataclasses
import functools
import pathlib

from trimtab.core import models
from trimtab.modeling import loading, rewards
from trimtab.trainer import recipes, record
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.judging import evaluation, gates
from trimtab.trainer.methods import dpo, kto, ppo, pretrain, references, sft
from trimtab.trainer.reward import fitting
from trimtab.trainer.steps import progress


def build(
    started: record.Started, settings: recipes.Settings, folder: pathlib.Path, report: progress.Progress
) -> record.Result:
    """The run's models, written below its folder, and its figures. TrimtabError when it cannot succeed."""
    work = _Build(started, folder, report, datasets.read(started.input("dataset")))
    if isinstance(settings, recipes.RewardSettings):
        return work.reward_models(settings)
    if isinstance(settings, recipes.PretrainSettings):
        return work.base(settings)
    return work.policy(settings)


@dataclasses.dataclass(frozen=True, slots=True)
class _Build:
    started: record.Started
    folder: pathlib.Path
    report: progress.Progress
    dataset: datasets.Dataset

    def policy(self, settings: recipes.PolicySettings) -> record.Result:
        policy = loading.load_policy(self.started.input("parent"))
        figures = self._train(policy, settings)
        judged_gates, judged = self._judge(policy, settings)
        output = self._output("policy", models.ModelKind.POLICY, judged_gates)
        loading.save_policy(policy.model, policy.tokenizer, policy.profile, self.folder / output.folder)
        return record.Result((output,), {**figures, **judged})

    def base(self, settings: recipes.PretrainSettings) -> record.Result:
        model = loading.load_policy(self.started.input("parent"))
        figures = pretrain.train(model, self.dataset, settings, self.started.seed, self.report)
        output = self._output("base", models.ModelKind.BASE, ())
        loading.save_policy(model.model, model.tokenizer, model.profile, self.folder / output.folder)
        return record.Result((output,), figures)

    def reward_models(self, settings: recipes.RewardSettings) -> record.Result:
        parent = loading.load_policy(self.started.input("parent"))
        trained, figures = fitting.train_both(parent, self.dataset, settings, self.started.seed, self.report)
        outputs = []
        for one in trained:
            output = self._output(one.kind.value, one.kind, one.gates)
            rewards.save_reward_model(one.reward, self.folder / output.folder)
            outputs.append(output)
            prefix = "" if one.kind is models.ModelKind.REWARD else "evaluation_"
            figures |= {f"{prefix}{name}": value for name, value in one.figures.items()}
        return record.Result(tuple(outputs), figures)

    def _train(self, policy: loading.LoadedPolicy, settings: recipes.PolicySettings) -> dict[str, float]:
        """Trains the policy in place; the figures of its method."""
        seed, report = self.started.seed, self.report
        match settings:
            case recipes.SFTSettings():
                return sft.train(policy, self.dataset, settings, seed, report)
            case recipes.PPOSettings():
                reference = loading.load_policy(self.started.input("reference"))
                reward = rewards.load_reward_model(self.started.input("reward"))
                return ppo.train(policy, reference, reward, self.dataset, settings=settings, seed=seed, report=report)
            case recipes.DPOSettings():
                load = self._reference_loader()
                return dpo.train(policy, load, self.dataset, settings=settings, seed=seed, report=report)
            case recipes.KTOSettings():
                load = self._reference_loader()
                return kto.train(policy, load, self.dataset, settings=settings, seed=seed, report=report)
        raise NotImplementedError(type(settings).__name__)

    def _reference_loader(self) -> references.Loader:
        """Loads the reference when called; InvalidField already now when the run was not given one."""
        return functools.partial(loading.load_policy, self.started.input("reference"))

    def _judge(
        self, policy: loading.LoadedPolicy, settings: recipes.PolicySettings
    ) -> tuple[tuple[models.GateFigure, ...], dict[str, float]]:
        """The candidate's gates and figures; none where the run was given no evaluation reward model."""
        if "evaluation_reward" not in self.started.inputs:
            return (), {}
        reference = loading.load_policy(self.started.input("reference"))
        judge = rewards.load_reward_model(self.started.input("evaluation_reward"))
        prompts = encoding.distinct_prompts(self.dataset.of("held_out"))
        seed = encoding.seed_of(self.started.seed, "evaluation")
        measured = evaluation.measure(policy, reference, judge, prompts, settings, seed=seed)
        return gates.of_policy(measured, self.started.gates, settings.evaluation_minimum), measured.figures()

    def _output(self, name: str, kind: models.ModelKind, passed_or_not: tuple[models.GateFigure, ...]) -> record.Output:
        return record.Output(f"{record.OUTPUTS}/{name}", kind, self.started.kind.value, passed_or_not)
