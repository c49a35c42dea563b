"""What TRL makes of the cases: `python -m tests.contract.training.golden_of_trl FILE METHOD...`, run by `regenerate`.

Runs in an environment that holds TRL and none of Trimtab. Each method's own trainer computes loss and gradient; PPO,
whose loss stands in the middle of its loop, runs one iteration on answers that are handed to it.
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

import datasets
import tokenizers
import torch
import transformers
import trl
from tests.contract.training import cases

Figures = dict[str, float]


def tokenizer() -> Any:
    words = {f"t{number}": number for number in range(cases.VOCABULARY)}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t2"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="t0", pad_token="t1")


def common(scratch: str, **more: Any) -> dict[str, Any]:
    common = {
        "output_dir": scratch, "bf16": False, "use_cpu": True, "report_to": "none", "gradient_checkpointing": False,
        "per_device_train_batch_size": len(cases.PROMPTS),
    }  # fmt: skip
    return common | more


def figures_of(loss: torch.Tensor, model: Any) -> Figures:
    loss.backward()
    return {"loss": loss.item(), "gradient_norm": cases.norm(model)}


def sft(scratch: str) -> dict[str, Figures]:
    rows = [
        {"input_ids": [*prompt, *answer], "completion_mask": [0] * len(prompt) + [1] * len(answer)}
        for prompt, answer in zip(cases.PROMPTS, cases.CHOSEN, strict=True)
    ]
    args = trl.SFTConfig(**common(scratch), completion_only_loss=True)
    trainer = trl.SFTTrainer(
        cases.causal(cases.POLICY), args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer()
    )
    batch = next(iter(trainer.get_train_dataloader()))
    return {"sft": figures_of(trainer.compute_loss(trainer.model, batch), trainer.model)}


def reward(scratch: str) -> dict[str, Figures]:
    found = {}
    for name, centred, margins in (("reward", None, False), ("reward centred, with margins", 0.01, True)):
        rows = [
            {"chosen_ids": [*prompt, *chosen], "rejected_ids": [*prompt, *rejected]}
            | ({"margin": margin} if margins else {})
            for prompt, chosen, rejected, margin in zip(
                cases.PROMPTS, cases.CHOSEN, cases.REJECTED, cases.MARGINS, strict=True
            )
        ]
        args = trl.RewardConfig(**common(scratch), center_rewards_coefficient=centred)
        trainer = trl.RewardTrainer(
            cases.scoring(), args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer()
        )
        batch = next(iter(trainer.get_train_dataloader()))
        found[name] = figures_of(trainer.compute_loss(trainer.model, batch), trainer.model)
    return found


def dpo(scratch: str) -> dict[str, Figures]:
    variants = [("sigmoid", 0.0), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)]
    texts = datasets.Dataset.from_list([{"prompt": "t5", "chosen": "t6", "rejected": "t7"}])
    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(cases.PROMPTS, cases.CHOSEN, cases.REJECTED, strict=True)
    ]
    found = {}
    for loss_type, smoothing in variants:
        args = trl.DPOConfig(**common(scratch), beta=cases.BETA, loss_type=[loss_type], label_smoothing=smoothing)
        trainer = trl.DPOTrainer(
            cases.causal(cases.POLICY), cases.causal(cases.REFERENCE), args, train_dataset=texts,
            processing_class=tokenizer(),
        )  # fmt: skip
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        found[f"dpo {loss_type}"] = figures_of(loss, trainer.model)
    return found


def kto(scratch: str) -> dict[str, Figures]:
    texts = datasets.Dataset.from_list(
        [{"prompt": f"t{n}", "completion": f"t{n + 6}", "label": bool(n % 2)} for n in range(5, 11)]
    )
    rows = [
        {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": partner, "label": label}
        for prompt, answer, partner, label in zip(
            cases.PROMPTS, cases.CHOSEN, cases.MISMATCHED, cases.DESIRABLE, strict=True
        )
    ]
    args = trl.KTOConfig(**common(scratch), beta=cases.BETA)
    trainer = trl.KTOTrainer(
        cases.causal(cases.POLICY), cases.causal(cases.REFERENCE), args, train_dataset=texts,
        processing_class=tokenizer(),
    )  # fmt: skip
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    return {"kto": figures_of(loss, trainer.model) | {"kl": trainer._metrics["eval"]["kl"][-1]}}


def _grouped(trainer: Any, config: Any, scratch: str, **more: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The trainer, and its inputs: prompts padded on the left, answers on the right."""
    wide = max(map(len, cases.GROUP_PROMPTS)), max(map(len, cases.GROUP_ANSWERS))
    left = [[cases.PAD] * (wide[0] - len(one)) + one for one in cases.GROUP_PROMPTS]
    right = [one + [cases.PAD] * (wide[1] - len(one)) for one in cases.GROUP_ANSWERS]
    inputs = {"prompt_ids": torch.tensor(left), "completion_ids": torch.tensor(right)}
    inputs |= {
        "prompt_mask": (inputs["prompt_ids"] != cases.PAD).long(),
        "completion_mask": (inputs["completion_ids"] != cases.PAD).long(),
        "advantages": torch.tensor(cases.ADVANTAGES),
        "num_items_in_batch": torch.tensor(float(sum(map(len, cases.GROUP_ANSWERS)))),
    }
    settings = common(scratch, per_device_train_batch_size=4) | {
        "num_generations": 2, "max_completion_length": cases.LONGEST, "epsilon": cases.CLIP, "beta": 0.0,
    }  # fmt: skip
    made = trainer(
        cases.causal(cases.POLICY), lambda completions, **_: [0.0] * len(completions), config(**settings, **more),
        train_dataset=datasets.Dataset.from_list([{"prompt": "t5"}] * 4), processing_class=tokenizer(),
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    return made, inputs


def _logprobs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, inputs["prompt_ids"].shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)


def grpo(scratch: str) -> dict[str, Figures]:
    found = {}
    for loss_type in ("dapo", "grpo", "dr_grpo"):
        made, inputs = _grouped(trl.GRPOTrainer, trl.GRPOConfig, scratch, loss_type=loss_type)
        inputs["old_per_token_logps"] = _logprobs(cases.causal(cases.OLD), inputs)
        found[f"grpo {loss_type}"] = figures_of(made._compute_loss(made.model, inputs), made.model)
    return found


def rloo(scratch: str) -> dict[str, Figures]:
    made, inputs = _grouped(trl.RLOOTrainer, trl.RLOOConfig, scratch)
    inputs["old_logps"] = (_logprobs(cases.causal(cases.POLICY), inputs) * inputs["completion_mask"]).sum(1)
    return {"rloo at the first step": figures_of(made._compute_loss(made.model, inputs), made.model)}


def ppo(scratch: str) -> dict[str, Figures]:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    queries = torch.tensor(cases.DRAWN_PROMPTS)
    answers = torch.tensor(cases.DRAWN)
    rows = datasets.Dataset.from_list([{"input_ids": one} for one in cases.DRAWN_PROMPTS])
    args = PPOConfig(
        **common(scratch, per_device_train_batch_size=len(rows)), total_episodes=len(rows), num_ppo_epochs=1,
        num_mini_batches=1, response_length=answers.shape[1], temperature=1.0, kl_coef=cases.BETA, vf_coef=1.0,
        cliprange=cases.CLIP, cliprange_value=cases.CLIP, num_sample_generations=0, missing_eos_penalty=None,
        learning_rate=0.0,
    )  # fmt: skip
    trainer = PPOTrainer(
        args, tokenizer(), cases.causal(cases.POLICY), cases.causal(cases.REFERENCE), cases.scoring(), rows,
        cases.scoring(cases.REWARD + 0.2), eval_dataset=rows,
    )  # fmt: skip
    found: Figures = {}
    loss_of = trainer.accelerator.backward

    def backward(loss: torch.Tensor) -> None:
        loss_of(loss)
        models = trainer.accelerator.unwrap_model(trainer.model)
        found["policy_gradient_norm"] = cases.norm(models.policy)
        found["critic_gradient_norm"] = cases.norm(models.value_model)

    def drawn(model: Any, asked: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        order = [cases.DRAWN_PROMPTS.index(one) for one in asked.tolist()]
        both = torch.cat([queries, answers], dim=1)[order]
        with torch.no_grad():
            logits = cases.causal(cases.OLD)(input_ids=both).logits[:, queries.shape[1] - 1 : -1]
        return both, logits

    def log(told: Figures) -> None:
        names = {"kl": "objective/kl", "score": "objective/scores", "clip_fraction": "policy/clipfrac_avg"}
        names |= {"policy_loss": "loss/policy_avg", "value_loss": "loss/value_avg"}
        found.update({name: told[theirs] for name, theirs in names.items()})

    trainer.accelerator.backward, trainer.log = backward, log
    ppo_trainer.batch_generation = drawn
    trainer.train()
    return {"ppo": found}


METHODS = {"sft": sft, "reward": reward, "dpo": dpo, "kto": kto, "grpo": grpo, "rloo": rloo, "ppo": ppo}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = {name: figures for method in sys.argv[2:] for name, figures in METHODS[method](folder).items()}
    document = {"trl": trl.__version__, "torch": torch.__version__.partition("+")[0], "cases": made}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(document, indent=2) + "\n")
