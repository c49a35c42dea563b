"""Models and batches that Trimtab and TRL are both given, the same to the last bit. Needs torch and transformers only.

Weights are a formula, not a generator's draws, so that they are the same under any version. The end-of-sequence token
is 0 and the pad 1, which no text holds: TRL makes masks of prompts from ids.
"""

import math
from typing import Any

import torch
import transformers

END, PAD, VOCABULARY = 0, 1, 48
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
CHOSEN = [[20, 21, 22, 0], [23, 24, 0], [25, 0]]
REJECTED = [[26, 0], [27, 28, 29, 30, 0], [31, 32, 0]]
MARGINS = [0.0, 0.7, 1.3]
DESIRABLE = [True, False, True]
# of the other prompts, for the reference point of KTO
MISMATCHED = [REJECTED[1], REJECTED[2], REJECTED[0]]
# answers of one length without an end, to prompts of one length: where TRL's PPO pads nothing
DRAWN_PROMPTS = [[5, 6, 7], [8, 9, 10], [11, 12, 13], [14, 15, 16]]
DRAWN = [[20, 21, 22, 23, 24], [25, 26, 27, 28, 29], [30, 31, 32, 33, 34], [35, 36, 37, 38, 39]]
# of groups
GROUP_PROMPTS = [PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[2]]
GROUP_ANSWERS = [CHOSEN[0], REJECTED[0], CHOSEN[2], REJECTED[1]]
ADVANTAGES = [1.2, -1.2, -0.4, 0.4]
BETA, CLIP, LONGEST = 0.1, 0.2, 8
POLICY, REFERENCE, OLD, REWARD = 0.0, 0.31, 0.2, 0.5


def causal(phase: float) -> Any:
    """A Llama whose weights depend on the phase; a little more phase is a slightly different policy."""
    return _filled(transformers.LlamaForCausalLM(_config()), phase)


def scoring(phase: float = REWARD) -> Any:
    return _filled(transformers.LlamaForSequenceClassification(_config(num_labels=1)), phase)


def _config(**changes: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, bos_token_id=None, eos_token_id=END, pad_token_id=PAD,
        **changes,
    )  # fmt: skip


@torch.no_grad()
def _filled(model: Any, phase: float) -> Any:
    for number, (name, weight) in enumerate(model.named_parameters()):
        steps = torch.arange(weight.numel(), dtype=torch.float64)
        values = torch.sin(steps * (0.7 + 0.013 * number) + number + phase)
        if weight.ndim == 1:
            weight.copy_((1.0 + 0.1 * values).view(weight.shape))
        else:
            weight.copy_((values * (1.0 if "embed" in name else 0.3)).view(weight.shape))
    return model.eval()


def norm(model: Any) -> float:
    """Of the gradient of all weights."""
    return math.sqrt(sum(float(w.grad.double().square().sum()) for w in model.parameters() if w.grad is not None))
