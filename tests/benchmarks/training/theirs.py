"""One run of TRL: `python -m tests.benchmarks.training.theirs METHOD FOLDER TUNED`, in an environment of its own.

TUNED is 0 for TRL as it comes and 1 for the fastest of its settings that computes the same: no gradient checkpointing,
examples of like length together, no padding to a multiple, the reference's log-probabilities before the first step,
nothing logged.
"""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import datasets
import peft
import torch
import transformers
import trl
from tests.benchmarks.training import clock, plan

Rows = list[dict[str, Any]]


class Timed(transformers.TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, timed: clock.Clock) -> None:
        self._timed = timed

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._timed.step()


@dataclasses.dataclass(frozen=True)
class Bench:
    folder: pathlib.Path
    planned: plan.Plan
    tuned: bool
    scratch: str
    rows: Rows

    def of(self, kind: str) -> Rows:
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def common(self) -> dict[str, Any]:
        """Settings of the measurement, and of TRL tuned."""
        common: dict[str, Any] = {
            "output_dir": self.scratch,
            "learning_rate": plan.LR,
            "lr_scheduler_type": "linear",
            "max_grad_norm": plan.CLIP,
            "adam_beta2": 0.95,
            "bf16": self.adapted,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "seed": 1,
        }
        quiet = {"gradient_checkpointing": False, "disable_tqdm": True, "logging_strategy": "no"}
        return common | (quiet if self.tuned else {})

    @property
    def adapted(self) -> bool:
        return plan.size_of(self.folder) == plan.PRETRAINED

    @property
    def dtype(self) -> Any:
        return torch.bfloat16 if self.adapted else torch.float32

    def adapters(self, task: str = "CAUSAL_LM") -> Any:
        if not self.adapted:
            return None
        return peft.LoraConfig(r=plan.RANK, lora_alpha=plan.RANK, target_modules="all-linear", task_type=task)

    @property
    def by_passes(self) -> dict[str, Any]:
        passes = self.planned.warm_up + self.planned.measured
        return {**self.common, "per_device_train_batch_size": self.planned.batch, "num_train_epochs": passes}

    @property
    def by_length(self) -> dict[str, Any]:
        if not self.tuned:
            return {}
        # columns that are not used would be dropped before the one of lengths is looked for
        column = {"length_column_name": "length", "remove_unused_columns": False}
        return {"train_sampling_strategy": "group_by_length", **column}

    @property
    def unpadded(self) -> dict[str, Any]:
        return {"pad_to_multiple_of": None} if self.tuned else {}

    @property
    def precomputed(self) -> dict[str, Any]:
        return {"precompute_ref_log_probs": True} if self.tuned else {}

    def policy(self) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(self.folder / "policy", dtype=self.dtype)

    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder / "policy")

    def scoring(self) -> Any:
        return transformers.AutoModelForSequenceClassification.from_pretrained(self.folder / "reward", dtype=self.dtype)


Made = tuple[Any, int]


def main(method: str, folder: pathlib.Path, tuned: bool) -> None:
    torch.set_num_threads(plan.THREADS)
    timed = clock.Clock()
    planned = plan.of(plan.size_of(folder), method)
    rows: Rows = json.loads((folder / "rows.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        trainer, count = RUNS[method](Bench(folder, planned, tuned, scratch, rows))
        trainer.add_callback(Timed(timed))
        timed.begin()
        trainer.train()
    print(timed.told(planned.warm_up * planned.steps_of_a_pass(count)))  # noqa: T201  # what the harness reads


def _sft(bench: Bench) -> Made:
    data = [
        {
            "input_ids": [*row["prompt_ids"], *row["response_ids"][0]],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["response_ids"][0]),
            "length": len(row["prompt_ids"]) + len(row["response_ids"][0]),
        }
        for row in bench.of("demonstration")
    ]
    args = trl.SFTConfig(**bench.by_passes, **bench.by_length, **bench.unpadded, completion_only_loss=True)
    rows = datasets.Dataset.from_list(data)
    trainer = trl.SFTTrainer(
        bench.policy(), args, train_dataset=rows, processing_class=bench.tokenizer(), peft_config=bench.adapters()
    )
    return trainer, len(data)


def _reward(bench: Bench) -> Made:
    data = [
        {
            "chosen_ids": [*row["prompt_ids"], *row["response_ids"][0]],
            "rejected_ids": [*row["prompt_ids"], *row["response_ids"][1]],
            "length": _longest(row),
        }
        for row in bench.of("pair")
    ]
    args = trl.RewardConfig(**bench.by_passes, **bench.by_length, center_rewards_coefficient=0.01)
    rows = datasets.Dataset.from_list(data)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bench.folder / "reward")
    trainer = trl.RewardTrainer(
        bench.scoring(), args, train_dataset=rows, processing_class=tokenizer, peft_config=bench.adapters("SEQ_CLS")
    )
    return trainer, len(data)


def _dpo(bench: Bench) -> Made:
    data = [
        {"prompt": row["prompt"], "chosen": row["texts"][0], "rejected": row["texts"][1], "length": _longest(row)}
        for row in bench.of("pair")
    ]
    args = trl.DPOConfig(**bench.by_passes, **bench.by_length, **bench.unpadded, **bench.precomputed)
    rows = datasets.Dataset.from_list(data)
    return _direct(trl.DPOTrainer, bench, args, rows), len(data)


def _kto(bench: Bench) -> Made:
    data = [{"prompt": row["prompt"], "completion": row["texts"][0], "label": row["up"]} for row in bench.of("thumb")]
    # no other order than its own: the reference point pairs an answer with its neighbour's prompt
    args = trl.KTOConfig(**bench.by_passes, **bench.unpadded, **bench.precomputed)
    rows = datasets.Dataset.from_list(data)
    return _direct(trl.KTOTrainer, bench, args, rows), len(data)


def _direct(trainer: Any, bench: Bench, args: Any, rows: Any) -> Any:
    return trainer(
        bench.policy(), None, args, train_dataset=rows, processing_class=bench.tokenizer(), peft_config=bench.adapters()
    )


def _ppo(bench: Bench) -> Made:
    from trl.experimental import ppo

    tokenizer = bench.tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.pad_token = "<|user|>"  # its masks come from ids, so the pad must not end an answer
    data = [{"input_ids": row["prompt_ids"]} for row in bench.of("demonstration") for _ in range(plan.SAMPLES)]
    rows = datasets.Dataset.from_list(data)
    batch = bench.planned.batch
    micro = batch if bench.tuned else 8
    args = ppo.PPOConfig(
        **bench.common,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        total_episodes=(bench.planned.warm_up + bench.planned.measured) * batch,
        num_mini_batches=1,
        num_ppo_epochs=plan.PPO_EPOCHS,
        response_length=plan.MAX_TOKENS,
        stop_token="eos",
        temperature=1.0,
        kl_coef=plan.BETA,
        missing_eos_penalty=1.0,
        num_sample_generations=0,
    )
    trainer = ppo.PPOTrainer(
        args, tokenizer, bench.policy(), None if bench.adapted else bench.policy(), bench.scoring(), rows,
        bench.scoring(), eval_dataset=rows, peft_config=bench.adapters(),
    )  # fmt: skip
    return trainer, batch


def _grouped(method: str) -> Callable[[Bench], Made]:
    def run(bench: Bench) -> Made:
        # looked up late: not every release of TRL can import all of its trainers
        trainer, config = getattr(trl, f"{method}Trainer"), getattr(trl, f"{method}Config")
        rows = datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in bench.of("demonstration")])
        args = config(
            **bench.common,
            **bench.unpadded,
            per_device_train_batch_size=bench.planned.batch,
            max_steps=bench.planned.warm_up + bench.planned.measured,
            num_generations=plan.SAMPLES,
            max_completion_length=plan.MAX_TOKENS,
            beta=plan.BETA,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(bench.folder / "reward")
        made = trainer(
            bench.policy(), bench.scoring(), args, train_dataset=rows, processing_class=bench.tokenizer(),
            reward_processing_classes=tokenizer, peft_config=bench.adapters(),
        )  # fmt: skip
        return made, bench.planned.batch

    return run


def _longest(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + max(map(len, row["response_ids"]))


RUNS: dict[str, Callable[[Bench], Made]] = {
    "sft": _sft,
    "reward": _reward,
    "dpo": _dpo,
    "kto": _kto,
    "ppo": _ppo,
    "rloo": _grouped("RLOO"),
    "grpo": _grouped("GRPO"),
}


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] == "1")
