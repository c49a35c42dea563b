"""The loop of the on-policy methods: draw answers, score, learn, again. Dispatched by `trainer.building`.

What differs between PPO, A2C, RLOO and GRPO is their learner (`actor_critic`, `grouped`); the rest is one code. An
iteration is a function of (run seed, its number, the weights), so a run goes on after a crash as if nothing had been.
"""

from collections.abc import Callable, Sequence

from trimtab.core import errors
from trimtab.trainer import recipes
from trimtab.trainer.data import datasets, encoding, prompts
from trimtab.trainer.methods import actor_critic, grouped, learner, rollouts, sft
from trimtab.trainer.steps import adapting, progress


def learner_of(
    models: learner.Models, settings: recipes.OnPolicySettings, demonstrations: Sequence[sft.Demonstration] = ()
) -> learner.Learner:
    """The method that the settings are of."""
    match settings:
        case recipes.PPOSettings():
            return actor_critic.PPO(models, settings, demonstrations)
        case recipes.A2CSettings():
            return actor_critic.A2C(models, settings, demonstrations)
        case recipes.RLOOSettings():
            return grouped.RLOO(models, settings, demonstrations)
        case recipes.GRPOSettings():
            return grouped.GRPO(models, settings, demonstrations)
    raise NotImplementedError(type(settings).__name__)


def train(
    models: learner.Models,
    dataset: datasets.Dataset,
    *,
    settings: recipes.OnPolicySettings,
    seed: int,
    report: progress.Progress,
    sampler: rollouts.Sampler | None = None,
    scorer: Callable[[int], rollouts.Scorer] | None = None,
) -> dict[str, float]:
    """Trains the policy's weights in place; the figures of the run and of its last iteration.

    sampler: where answers are drawn, in place of the policy itself. scorer: who scores those of an iteration, counted
    from 0, in place of the reward model in `models`. InvalidField when no prompt can be trained on.
    """
    policy, skipped = models.policy, encoding.Skipped()
    asked = prompts.pool(dataset, settings.per_session)
    pool = rollouts.encode_prompts(policy, asked.prompts, skipped)
    if not pool:
        raise errors.InvalidField("dataset_id", "holds no prompt that can be trained on", "choose another data set")
    demonstrations = sft.prepare(policy, dataset.of("train", *sft.TEACHING), skipped)
    method = learner_of(models, settings, demonstrations)
    if models.reward is not None:
        # after the critic, which may start as a copy of it
        for one in (models.reward, *models.reward.others):
            adapting.lower(one.model.requires_grad_(False), settings)
    iterations = Iterations(
        method=method,
        models=models,
        settings=settings,
        seed=seed,
        pool=pool,
        sampler=sampler or rollouts.InProcess(policy),
        scorer=scorer or (lambda _: models.scoring),
    )
    done = report.begin(method.phase, settings.iterations, method.carried)
    for iteration in range(done, settings.iterations):
        report.step(iterations.take(iteration))
    books = {
        **asked.figures(),
        "prompts": float(len(pool)),
        "demonstrations": float(len(demonstrations)),
        "unscored": float(method.values["unscored"]),
        "steps_skipped": float(method.steps_skipped),
    }
    dropped = {f"dropped: {reason}": float(count) for reason, count in sorted(method.values["dropped"].items())}
    return {**report.figures, **books, **dropped, **skipped.figures()}


class Iterations:
    """Those of one run."""

    def __init__(
        self,
        *,
        method: learner.Learner,
        models: learner.Models,
        settings: recipes.OnPolicySettings,
        seed: int,
        pool: Sequence[rollouts.EncodedPrompt],
        sampler: rollouts.Sampler,
        scorer: Callable[[int], rollouts.Scorer],
    ) -> None:
        self._method, self._settings, self._seed = method, settings, seed
        self._pool, self._sampler, self._scorer = pool, sampler, scorer
        self._max_tokens = min(settings.max_tokens, models.policy.profile.max_tokens)

    def take(self, iteration: int) -> dict[str, float]:
        """One iteration; its figures. WrongState when no answer can be used."""
        settings, method = self._settings, self._method
        chosen = rollouts.choose(self._pool, settings.prompts, self._of("prompts", iteration))
        drawn = self._sampler.draw(
            chosen, settings.samples, self._max_tokens, iteration=iteration, seed=self._of("answers", iteration)
        )
        batch = rollouts.scored(drawn, chosen, settings.samples, self._scorer(iteration))
        method.values["unscored"] += batch.unscored
        method.drop(batch.dropped)
        if not batch.kept:
            raise _nothing_left(iteration, len(drawn), batch)
        steps, judged = method.judge(batch.kept)
        learned = method.learn(steps, self._of("order", iteration)) if steps else {}
        return {**batch.figures(), **judged, **learned}

    def _of(self, purpose: str, iteration: int) -> int:
        return encoding.seed_of(self._seed, purpose, iteration)


def _nothing_left(iteration: int, drawn: int, batch: rollouts.Rollouts) -> errors.WrongState:
    if batch.unscored == drawn:
        return errors.WrongState(f"Of the {drawn} answers of iteration {iteration + 1} none was scored.")
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(batch.dropped.items()))
    return errors.WrongState(f"Of the {drawn} answers of iteration {iteration + 1} none can be used: {reasons}.")
