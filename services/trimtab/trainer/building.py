"""From a run's inputs to its models: loads what the run names, trains by its method, judges, writes the outputs.

Dispatched by `trainer.job`; the methods are in `trainer.methods` and `trainer.reward`.
"""

import copy
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

from trimtab import registry
from trimtab.core import models, text
from trimtab.modeling import loading, lora, rewards
from trimtab.rpc import secrets
from trimtab.trainer import recipes, record
from trimtab.trainer.data import datasets, encoding
from trimtab.trainer.judging import evaluation, judging, sets
from trimtab.trainer.links import snapshots
from trimtab.trainer.methods import (
    dpo,
    elsewhere,
    kto,
    learner,
    on_policy,
    pretrain,
    references,
    remote_rollouts,
    remote_scores,
    rollouts,
    sft,
)
from trimtab.trainer.reward import criteria
from trimtab.trainer.steps import adapting, progress, ranks


def build(
    started: record.Started,
    settings: recipes.Settings,
    folder: pathlib.Path,
    report: progress.Progress,
    among: ranks.Ranks = ranks.ALONE,
) -> record.Result | None:
    """The run's models, written below its folder, and its figures. TrimtabError when it cannot succeed.

    Of several processes the first judges and writes; the others have nothing more to do: None.
    """
    work = _Build(started, folder, report, datasets.read(started.input("dataset")), among)
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
    among: ranks.Ranks

    def policy(self, settings: recipes.PolicySettings) -> record.Result | None:
        policy = loading.load_policy(self.started.input("parent"))
        adapting.prepare(policy.model, settings, self.started.seed)
        figures = self._train(policy, settings)
        self.among.leave()
        if not self.among.is_first:
            return None
        adapting.finish(policy.model)
        judged_gates, judged = self._judge(policy, settings)
        output = self._output("policy", models.ModelKind.POLICY, judged_gates)
        loading.save_policy(policy.model, policy.tokenizer, policy.profile, self.folder / output.folder)
        return record.Result((output,), {**figures, **judged})

    def base(self, settings: recipes.PretrainSettings) -> record.Result:
        model = loading.load_policy(self.started.input("parent"))
        adapting.prepare(model.model, settings, self.started.seed)
        figures = pretrain.train(model, self.dataset, settings, self.started.seed, self.report)
        adapting.finish(model.model)
        output = self._output("base", models.ModelKind.BASE, ())
        loading.save_policy(model.model, model.tokenizer, model.profile, self.folder / output.folder)
        return record.Result((output,), figures)

    def reward_models(self, settings: recipes.RewardSettings) -> record.Result | None:
        folder = self.started.input("parent")
        is_reward = rewards.is_reward_model(folder)
        parent = rewards.load_reward_model(folder) if is_reward else loading.load_policy(folder)
        # a reward run's reward model is the incumbent that the new one is compared with
        named = self.started.inputs.get("reward")
        incumbent = rewards.load_reward_model(named) if named else None
        trained, figures = criteria.train(
            parent,
            self.dataset,
            settings,
            self.started.seed,
            self.report,
            incumbent=incumbent,
            among=self.among,
        )
        self.among.leave()
        if not self.among.is_first:
            return None
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
                return sft.train(policy, self.dataset, settings, seed, report, among=self.among)
            case recipes.OnPolicySettings():
                reference = self._reference_loader(policy, settings)()
                return on_policy.train(
                    learner.Models(policy, reference, self._reward(settings)),
                    self.dataset,
                    settings=settings,
                    seed=seed,
                    report=report,
                    sampler=self._sampler(policy, settings),
                    scorer=self._scorer(settings),
                )
            case recipes.DPOSettings():
                load = self._reference_loader(policy, settings)
                return dpo.train(
                    policy, load, self.dataset, settings=settings, seed=seed, report=report, among=self.among
                )
            case recipes.KTOSettings():
                load = self._reference_loader(policy, settings)
                return kto.train(policy, load, self.dataset, settings=settings, seed=seed, report=report)
        raise NotImplementedError(type(settings).__name__)

    def _reference_loader(self, policy: loading.LoadedPolicy, settings: recipes.PolicySettings) -> references.Loader:
        """Gives the reference when called; InvalidField already now when the run was not given one.

        Where the policy is the reference with adapters, that is the policy without them.
        """
        folder = self.started.input("reference")
        if settings.lora_rank and folder == self.started.input("parent"):
            return lambda: dataclasses.replace(policy, model=lora.Unadapted(policy.model))

        def loaded() -> loading.LoadedPolicy:
            reference = loading.load_policy(folder)
            reference.model.requires_grad_(False)
            adapting.lower(reference.model, settings)
            return reference

        return loaded

    def _reward(self, settings: recipes.OnPolicySettings) -> rewards.LoadedReward | None:
        """The reward model; None where a service scores and no critic starts from it."""
        folder = self.started.input("reward")
        has_critic = isinstance(settings, recipes.CriticSettings) and settings.critic == "separate"
        return rewards.load_reward_model(folder) if has_critic or not settings.scorer else None

    def _sampler(self, policy: loading.LoadedPolicy, settings: recipes.OnPolicySettings) -> rollouts.Sampler | None:
        """The policy process that draws the answers, where the run asks for one."""
        if not settings.sampler:
            return None
        refresh = None
        if settings.snapshot_every:
            taken = snapshots.Snapshots(self.folder)
            save = functools.partial(_save_as_it_is, policy)
            refresh = remote_rollouts.Refresh(settings.snapshot_every, taken, save)
        return remote_rollouts.PolicyService(
            door=elsewhere.Door("sampler", settings.sampler, _token()),
            folder=self.folder,
            context=text.Context(self.started.tenant, self.started.line),
            parent_id=self.started.parent_id,
            max_staleness=settings.max_staleness,
            refresh=refresh,
        )

    def _scorer(self, settings: recipes.OnPolicySettings) -> Callable[[int], rollouts.Scorer] | None:
        """The reward service that scores the answers of an iteration, where the run asks for one."""
        if not settings.scorer:
            return None
        return remote_scores.RewardService(
            door=elsewhere.Door("scorer", settings.scorer, _token()),
            folder=self.folder,
            model_id=self.started.reward_id,
            digest=registry.loaded_digest(self.started.input("reward")),
        ).at

    def _judge(
        self, policy: loading.LoadedPolicy, settings: recipes.PolicySettings
    ) -> tuple[tuple[models.GateFigure, ...], dict[str, float]]:
        """The candidate's gates and figures; none where the run was given no evaluation reward model."""
        started, inputs = self.started, self.started.inputs
        if "evaluation_reward" not in inputs:
            return (), {}
        # a run that needs no reference is judged against what it started from
        reference_folder = inputs.get("reference", started.input("parent"))
        came_from = started.input("parent")
        compared = judging.Compared(
            policy,
            loading.load_policy(reference_folder),
            None if came_from == reference_folder else loading.load_policy(came_from),
            started.reference_is,
        )
        judges = evaluation.Judges(
            rewards.load_reward_model(started.input("evaluation_reward")),
            rewards.load_reward_model(inputs["reward"]) if "reward" in inputs else None,
        )
        own = [
            judging.OwnSet(name, sets.read(started.input(one.role(name)) / sets.SET_FILE), one.at_least)
            for name, one in started.judging.sets.items()
        ]
        prompts = encoding.distinct_prompts(self.dataset.of("held_out"))
        return judging.judge(compared, judges, prompts, own=own, thresholds=started.judging.gates, settings=settings)

    def _output(self, name: str, kind: models.ModelKind, passed_or_not: tuple[models.GateFigure, ...]) -> record.Output:
        return record.Output(f"{record.OUTPUTS}/{name}", kind, self.started.kind.value, passed_or_not)


def _save_as_it_is(policy: loading.LoadedPolicy, folder: pathlib.Path) -> None:
    """An ordinary model of the policy in training; the one in memory stays as it is, adapters and all."""
    model = copy.deepcopy(policy.model)
    adapting.finish(model)
    loading.save_policy(model, policy.tokenizer, policy.profile, folder)


def _token() -> str:
    """The internal token; empty where the job was given none, which is no problem before it asks."""
    known = os.environ.get(record.SECRETS_FILE)
    return secrets.load(pathlib.Path(known)).internal_token if known else ""
