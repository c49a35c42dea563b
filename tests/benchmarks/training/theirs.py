"""One run of TRL: `python -m tests.benchmarks.training.theirs METHOD FOLDER TUNED`, in an environment of its own.

TUNED is 0 for TRL as it comes and 1 for the fastest of its settings that computes the same: no gradient checkpointing,
examples of like length together, no padding to a multiple, quiet.
"""

import json
import os
import pathlib
import sys
import tempfile
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import datasets
import torch
import transformers
from tests.benchmarks.training import clock, plan

Rows = list[dict[str, Any]]


class Timed(transformers.TrainerCallback):
    """Tells the clock of every step."""

    def __init__(self, timed: clock.Clock) -> None:
        self._timed = timed

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._timed.step()


def main(method: str, folder: pathlib.Path, tuned: bool) -> None:
    torch.set_num_threads(plan.THREADS)
    timed = clock.Clock()
    planned = plan.PLANS[method]
    rows: Rows = json.loads((folder / "rows.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        trainer, steps = RUNS[method](rows, folder, planned, tuned, scratch)
        trainer.add_callback(Timed(timed))
        timed.begin()
        trainer.train()
    print(timed.told(planned.warm_up * steps))


def _common(scratch: str, tuned: bool) -> dict[str, Any]:
    common: dict[str, Any] = {
        "output_dir": scratch, "learning_rate": plan.LR, "lr_scheduler_type": "linear", "max_grad_norm": plan.CLIP,
        "adam_beta2": 0.95, "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "seed": 1,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    if tuned:
        common |= {"gradient_checkpointing": False, "disable_tqdm": True, "logging_strategy": "no"}
    return common


def _by_length(tuned: bool) -> dict[str, Any]:
    if not tuned:
        return {}
    # else the column of lengths is dropped before it is looked for
    return {
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "remove_unused_columns": False,
    }


def _policy(folder: pathlib.Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(folder / "policy")


def _sft(rows: Rows, folder: pathlib.Path, planned: plan.Plan, tuned: bool, scratch: str) -> tuple[Any, int]:
    import trl

    model, tokenizer = _policy(folder)
    data = [
        {
            "input_ids": [*row["prompt_ids"], *row["response_ids"][0]],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["response_ids"][0]),
            "length": len(row["prompt_ids"]) + len(row["response_ids"][0]),
        }
        for row in rows
        if row["kind"] == "demonstration"
    ]
    args = trl.SFTConfig(
        **_common(scratch, tuned), **_by_length(tuned), **({"pad_to_multiple_of": None} if tuned else {}),
        per_device_train_batch_size=planned.batch, num_train_epochs=planned.warm_up + planned.measured,
        completion_only_loss=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer)
    return trainer, -(-len(data) // planned.batch)


def _reward(rows: Rows, folder: pathlib.Path, planned: plan.Plan, tuned: bool, scratch: str) -> tuple[Any, int]:
    import trl

    model = _scoring(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "reward")
    data = [
        {
            "chosen_ids": [*row["prompt_ids"], *row["response_ids"][0]],
            "rejected_ids": [*row["prompt_ids"], *row["response_ids"][1]],
            "length": len(row["prompt_ids"]) + max(map(len, row["response_ids"])),
        }
        for row in rows
        if row["kind"] == "pair"
    ]
    args = trl.RewardConfig(
        **_common(scratch, tuned), **_by_length(tuned), per_device_train_batch_size=planned.batch,
        num_train_epochs=planned.warm_up + planned.measured, center_rewards_coefficient=0.01,
    )  # fmt: skip
    trainer = trl.RewardTrainer(model, args, train_dataset=datasets.Dataset.from_list(data), processing_class=tokenizer)
    return trainer, -(-len(data) // planned.batch)


def _ppo(rows: Rows, folder: pathlib.Path, planned: plan.Plan, tuned: bool, scratch: str) -> tuple[Any, int]:
    from trl.experimental import ppo

    model, tokenizer = _policy(folder)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = "<|user|>"  # its masks come from ids, so the pad must not end an answer
    prompts = [{"input_ids": row["prompt_ids"]} for row in rows if row["kind"] == "demonstration"]
    steps = planned.warm_up + planned.measured
    data = datasets.Dataset.from_list([one for one in prompts for _ in range(plan.SAMPLES)])
    micro = planned.batch if tuned else 8
    args = ppo.PPOConfig(
        **_common(scratch, tuned), per_device_train_batch_size=micro,
        gradient_accumulation_steps=planned.batch // micro, total_episodes=steps * planned.batch, num_mini_batches=1,
        num_ppo_epochs=plan.PPO_EPOCHS, response_length=plan.MAX_TOKENS, stop_token="eos", temperature=1.0,
        kl_coef=plan.BETA, missing_eos_penalty=1.0, num_sample_generations=0,
    )  # fmt: skip
    trainer = ppo.PPOTrainer(
        args, tokenizer, model, _policy(folder)[0], _scoring(folder), data, _scoring(folder), eval_dataset=data
    )
    return trainer, 1


def _scoring(folder: pathlib.Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)


RUNS = {"sft": _sft, "reward": _reward, "ppo": _ppo}


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] == "1")
