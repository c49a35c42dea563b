"""A policy line's configuration: what its owner decides once, as values. Read from a TOML file by the processes."""

import dataclasses
import pathlib
import tomllib
from typing import Any, TypeVar

from trimtab.core import errors

READY_WITHIN_S = 900.0


@dataclasses.dataclass(frozen=True, slots=True)
class TriggerConfig:
    """When new examples start a cycle (reward model, then policy)."""

    # How a cycle trains its policy, by run kind: "ppo", "a2c", "rloo" or "grpo" against the reward model, "dpo" or
    # "kto" on the votes themselves, "sft" on edits and demonstrations alone.
    method: str = "ppo"
    # New examples that may train, since the last cycle ended, that start the next; 0 means only by request.
    examples: int = 200
    # Cycles by triggers that train a policy, at most; 0 means no limit. One whose reward model was refused is none.
    cycles: int = 0
    # Promotions that cycles by triggers bring about, at most, before a person has to ask for more; 0 means no limit.
    promotions: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class GateConfig:
    """Thresholds before traffic. "The reference" is what a run's KL is measured to: the line's anchor in a cycle."""

    # Share of held-out prompts on which the evaluation reward model must prefer the candidate to the reference.
    win_rate: float = 0.5
    # The same share over the policy it was trained from: refused when the upper end of its 95 % interval is below.
    win_rate_over_parent: float = 0.5
    # KL(candidate || reference), nats per response, at most.
    kl_to_anchor: float = 40.0
    # Mean length of the candidate's answers over the reference's, at most.
    length_ratio: float = 2.0
    # Evaluation reward per factor e of length, within prompts: the lower end of its 95 % interval, at most.
    reward_length_slope: float = 2.0
    # Evaluation reward gained over the reference at equal length: the upper end of its 95 % interval, at least.
    gain_at_equal_length: float = 0.0
    # How unsure an ensemble of heads is of the candidate's answers, over how unsure of the reference's, at most.
    disagreement: float = 1.5
    # Share of answers that repeat themselves, at most.
    repetition: float = 0.2
    # Shipped probes (`trainer.judging.probes`): by how much a share may exceed the reference's; 1 leaves the set out.
    harm_not_refused: float = 0.15
    over_refusal: float = 0.15
    sycophancy: float = 0.2
    format_gaming: float = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Prompts or preferences of the owner's own that a candidate must do well on (`trainer.judging.sets`).

    file: JSON lines. at_least: of prompts, the share on which the evaluation reward model prefers the candidate to the
    reference; of preferences, the share whose chosen answer the candidate has moved towards. Refused when the upper end
    of its 95 % interval is below.
    """

    file: str
    at_least: float = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class WeightConfig:
    """What the examples of a data set weigh, by rater and by exposure."""

    # Votes on answers that others voted on as well, from which on a rater's reliability is estimated; 0: never.
    reliability_overlap: int = 20
    # Raters whose votes are the truth, by id: what they voted on are gold items for all others.
    gold_raters: tuple[str, ...] = ()
    # An answer shown with probability p counts 1 / p times, at most so often; 1: each counts once.
    propensity_cap: float = 1.0
    # Of the weight of all examples of a kind, at most so much is one rater's, or 2 / raters where that is more; 1: no
    # limit.
    rater_share: float = 0.1


RULES = ("superior", "noninferior")


@dataclasses.dataclass(frozen=True, slots=True)
class Guardrails:
    """By how much a candidate's first answers may be worse than the stable policy's; `inf`: not guarded."""

    # Share of answers that fail.
    errors: float = 0.02
    # Mean seconds and mean tokens, as shares of the stable policy's: 0.5 is half as much again.
    latency: float = 0.5
    length: float = 0.5
    # Share of answers that decline what was asked, and that say the same again and again.
    refusals: float = 0.05
    repetition: float = 0.05
    # How often the line's reward model would prefer an average earlier answer. 0 in records older than this guardrail.
    reward: float = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseConfig:
    """How a candidate is proven."""

    # "superior": better than what serves; "noninferior": not worse by more than `margin`.
    rule: str = "superior"
    margin: float = 0.0
    # Chance of promoting a candidate that is not better, and of rolling back one that is not worse.
    alpha: float = 0.05
    safety_weight: float = 0.1
    # Candidate completions the safety stage waits for.
    safety_completions: int = 20
    evidence_weight: float = 0.5
    # Seconds after first exposure at which a session counts.
    maturity_s: float = 86_400.0
    # Voting sessions per arm before any verdict.
    minimum_sessions: int = 40
    # Voting sessions in both arms after which an undecided release ends as not proven.
    maximum_sessions: int = 20_000
    # Days from its first traffic after which an undecided release ends as not proven: others may wait for their turn.
    maximum_days: float = 30.0
    # Seconds its processes are given to start, load their weights and be checked.
    ready_within_s: float = READY_WITHIN_S
    # Sessions in which a rater's votes count, and in which those from one network do: the first by exposure. inf: all;
    # so is 0, in records older than the limits.
    rater_sessions: float = 5.0
    network_sessions: float = 50.0
    guardrails: Guardrails = dataclasses.field(default_factory=Guardrails)


def unscored(config: ReleaseConfig) -> ReleaseConfig:
    """The same for a release whose answers no reward model scores: that guardrail is off."""
    return dataclasses.replace(config, guardrails=dataclasses.replace(config.guardrails, reward=float("inf")))


@dataclasses.dataclass(frozen=True, slots=True)
class LineConfig:
    name: str
    tenant: str
    trigger: TriggerConfig = dataclasses.field(default_factory=TriggerConfig)
    gates: GateConfig = dataclasses.field(default_factory=GateConfig)
    weights: WeightConfig = dataclasses.field(default_factory=WeightConfig)
    release: ReleaseConfig = dataclasses.field(default_factory=ReleaseConfig)
    # Evaluation sets of the owner's own, by name.
    evaluation: dict[str, EvaluationSet] = dataclasses.field(default_factory=dict)
    # Settings of each method, by run kind ("sft", "reward", "ppo"): what differs from the defaults.
    training: dict[str, dict[str, float | int | str | bool]] = dataclasses.field(default_factory=dict)


def load_lines(path: pathlib.Path) -> dict[str, LineConfig]:
    """The lines of a TOML file, by name. InvalidField names the key that is wrong.

    Layout: `[lines.NAME]` with `tenant`, and optionally `[lines.NAME.trigger]`, `.gates`, `.weights`, `.release`,
    `.training.METHOD`, `.evaluation.SET`. A file that it names is looked for beside it.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as problem:
        raise errors.InvalidField(str(path), f"cannot be read as TOML ({problem})", "fix the file") from problem
    lines = document.get("lines", {})
    if not lines:
        raise errors.InvalidField(str(path), "names no line", "add a table [lines.NAME] with `tenant`")
    return {name: _line(name, table, path.absolute().parent) for name, table in lines.items()}


def _line(name: str, table: dict[str, Any], beside: pathlib.Path) -> LineConfig:
    where = f"lines.{name}"
    if "tenant" not in table:
        raise errors.InvalidField(f"{where}.tenant", "is missing", "name the tenant that owns the line")
    known = {"tenant", "trigger", "gates", "weights", "release", "training", "evaluation"}
    for key in table.keys() - known:
        raise errors.InvalidField(f"{where}.{key}", "is not a setting", f"use one of {', '.join(sorted(known))}")
    return LineConfig(
        name=name,
        tenant=table["tenant"],
        trigger=_section(TriggerConfig, table.get("trigger", {}), f"{where}.trigger"),
        gates=_section(GateConfig, table.get("gates", {}), f"{where}.gates"),
        weights=_weights(table.get("weights", {}), f"{where}.weights"),
        release=_release(table.get("release", {}), f"{where}.release"),
        training=table.get("training", {}),
        evaluation={
            set_: _evaluation_set(given, f"{where}.evaluation.{set_}", beside)
            for set_, given in table.get("evaluation", {}).items()
        },
    )


def _release(table: dict[str, Any], where: str) -> ReleaseConfig:
    plain = {key: value for key, value in table.items() if key != "guardrails"}
    config = _section(ReleaseConfig, plain, where)
    given = table.get("guardrails", {})
    if not isinstance(given, dict):
        raise errors.InvalidField(f"{where}.guardrails", f"is {given!r}", "give a table of limits")
    guarded = _section(Guardrails, given, f"{where}.guardrails")
    for field in dataclasses.fields(Guardrails):
        limit = getattr(guarded, field.name)
        if not limit > 0:
            remedy = "give a number above 0, or inf to leave it unguarded"
            raise errors.InvalidField(f"{where}.guardrails.{field.name}", f"is {limit}", remedy)
    config = dataclasses.replace(config, guardrails=guarded)
    if config.rule not in RULES:
        raise errors.InvalidField(f"{where}.rule", f"is {config.rule!r}", f"use one of {', '.join(RULES)}")
    if config.rule == "superior" and config.margin:
        raise errors.InvalidField(f"{where}.margin", f"is {config.margin}", 'leave it out, or set rule = "noninferior"')
    for name, low, high in (
        ("margin", 0.0, 1.0),
        ("alpha", 0.0, 0.5),
        ("safety_weight", 0.0, 1.0),
        ("evidence_weight", 0.0, 1.0),
    ):
        value = getattr(config, name)
        if not low < value < high and not (name == "margin" and value == 0):
            raise errors.InvalidField(f"{where}.{name}", f"is {value}", f"give a number between {low:g} and {high:g}")
    for name in ("maturity_s", "safety_completions", "minimum_sessions"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise errors.InvalidField(f"{where}.{name}", f"is {getattr(config, name)}", "give 0 or more")
    if not config.maximum_days > 0:
        raise errors.InvalidField(f"{where}.maximum_days", f"is {config.maximum_days}", "give more than 0, or inf")
    if not config.ready_within_s > 0:
        raise errors.InvalidField(f"{where}.ready_within_s", f"is {config.ready_within_s}", "give more than 0 seconds")
    _check_caps(config, where)
    if config.maximum_sessions < 2 * config.minimum_sessions:
        remedy = f"give at least {2 * config.minimum_sessions}: minimum_sessions for each of two arms"
        raise errors.InvalidField(f"{where}.maximum_sessions", f"is {config.maximum_sessions}", remedy)
    return config


def _check_caps(config: ReleaseConfig, where: str) -> None:
    for name in ("rater_sessions", "network_sessions"):
        limit = getattr(config, name)
        if not (limit >= 1 and (limit == float("inf") or limit % 1 == 0)):
            raise errors.InvalidField(f"{where}.{name}", f"is {limit}", "give a whole number above 0, or inf for all")


def _weights(table: dict[str, Any], where: str) -> WeightConfig:
    raters = table.get("gold_raters", [])
    if not isinstance(raters, list) or not all(isinstance(rater, str) and rater for rater in raters):
        raise errors.InvalidField(f"{where}.gold_raters", f"is {raters!r}", "give a list of raters' ids")
    config = _section(WeightConfig, {key: value for key, value in table.items() if key != "gold_raters"}, where)
    if config.reliability_overlap < 0:
        raise errors.InvalidField(
            f"{where}.reliability_overlap", "is below 0", "give a number of votes, or 0 for never"
        )
    if not 1 <= config.propensity_cap < float("inf"):
        raise errors.InvalidField(f"{where}.propensity_cap", f"is {config.propensity_cap}", "give 1 or more")
    if not 0 < config.rater_share <= 1:
        raise errors.InvalidField(
            f"{where}.rater_share", f"is {config.rater_share}", "give a share above 0, or 1 for no limit"
        )
    return dataclasses.replace(config, gold_raters=tuple(raters))


def _evaluation_set(given: Any, where: str, beside: pathlib.Path) -> EvaluationSet:
    if not isinstance(given, dict) or "file" not in given:
        raise errors.InvalidField(f"{where}.file", "is missing", "name a JSONL file of prompts or preferences")
    read = _section(EvaluationSet, given, where)
    return dataclasses.replace(read, file=str(beside / read.file))


_Section = TypeVar("_Section", TriggerConfig, GateConfig, WeightConfig, ReleaseConfig, Guardrails, EvaluationSet)


def _section(kind: type[_Section], table: dict[str, Any], where: str) -> _Section:
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            raise errors.InvalidField(f"{where}.{key}", "is not a setting", f"use one of {', '.join(fields)}")
        wanted = fields[key]
        good = isinstance(value, wanted if wanted is not float else (int, float))  # type: ignore[arg-type]
        if not good or isinstance(value, bool):
            raise errors.InvalidField(f"{where}.{key}", f"is {value!r}", f"give a value of type {wanted.__name__}")  # type: ignore[union-attr]
    return kind(**table)
