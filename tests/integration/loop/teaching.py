"""A chat model folder small enough to learn to answer within seconds."""

import pathlib

import torch
import transformers

from trimtab.modeling import loading, tiny

Rows = list[tuple[list[int], list[int]]]


def write_chat_model(folder: pathlib.Path, pairs: list[tuple[str, str]], taught: int = 32) -> None:
    """pairs: (question, answer), the tokenizer's texts; what it learns to say are the first `taught`."""
    tokenizer = tiny.train_bpe([text for pair in pairs for text in pair], vocab_size=320)
    model = tiny.tiny_llama(len(tokenizer), 1, hidden=32, layers=2, heads=2, intermediate=64, context=128)
    _teach(model, [_tokens(tokenizer, question, answer) for question, answer in pairs[:taught]])
    loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=16, top_p=0.95), folder)


def _tokens(tokenizer: transformers.PreTrainedTokenizerFast, question: str, answer: str) -> tuple[list[int], list[int]]:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, answer + tiny.END))


def _teach(model: transformers.LlamaForCausalLM, rows: Rows, steps: int = 50) -> None:
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    for row, (asked, answer) in enumerate(rows):
        whole = len(asked) + len(answer)
        ids[row, :whole] = torch.tensor(asked + answer)
        labels[row, len(asked) : whole] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        # padding follows what it could disturb, so causal attention needs no mask
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
