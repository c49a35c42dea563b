"""The decoder answers as a plain full forward pass would, whatever else is in its batch."""

import random
from typing import Any

import pytest
import torch

from trimtab.core import completions, errors
from trimtab.modeling import decoder, tiny

torch.set_num_threads(1)

VOCABULARY = 300
TEXTS = ["Where is the tone? Open Sound, then tone. Grüße, 你好 🙂!", "Where is the font? Open View, then font."]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.train_bpe(TEXTS, VOCABULARY)


@pytest.fixture(scope="module")
def model() -> Any:
    """Sharpened, so that answers differ in length and greedy choices are clear."""
    made = tiny.tiny_llama(VOCABULARY, 3, hidden=32, layers=2, heads=2, intermediate=48, context=160)
    with torch.no_grad():
        made.model.norm.weight.mul_(4.0)
    return made


def prompt(seed: int, length: int | None = None) -> tuple[int, ...]:
    """Tokens that include the end (= pad) token: masks must not come from token ids."""
    chooser = random.Random(seed)
    return tuple(chooser.randrange(0, 60) * chooser.randrange(0, 2) for _ in range(length or chooser.randint(2, 40)))


def request(seed: int, **settings: Any) -> decoder.DecodeRequest:
    return decoder.DecodeRequest(prompt(seed), settings.pop("max_tokens", 8 + seed % 23), seed=seed, **settings)


def full_pass(model: Any, prompt_ids: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Raw log-probs of the answer's tokens from one pass over the whole sequence, no cache and no padding."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + answer])).logits[0].float()
    picked = logits[len(prompt_ids) - 1 : -1].log_softmax(-1)
    return picked.gather(1, torch.tensor(answer)[:, None]).squeeze(1)


def drive(running: decoder.Decoder) -> dict[int, decoder.Decoded]:
    return {event.request_id: event.result for event in running.step() if event.result is not None}


def test_raw_log_probs_recompute_whatever_the_batch_and_the_order_of_joining(model: Any, tokenizer: Any) -> None:
    running = decoder.Decoder(model, tokenizer, max_batch=7)
    arrivals = random.Random(5)
    todo = [request(seed, temperature=(0.0, 0.6, 1.0, 1.3)[seed % 4], top_p=(1.0, 0.9)[seed % 2]) for seed in range(40)]
    sent: dict[int, decoder.DecodeRequest] = {}
    done: dict[int, decoder.Decoded] = {}
    while todo or running.busy:
        for _ in range(min(len(todo), arrivals.choice([0, 0, 1, 3]))):
            asked = todo.pop()
            sent[running.submit(asked)] = asked
        done |= drive(running)
    assert len(done) == 40
    for identity, asked in sent.items():
        answer = done[identity]
        expected = full_pass(model, asked.prompt_token_ids, answer.token_ids)
        torch.testing.assert_close(torch.tensor(answer.logprobs_raw), expected, atol=1e-4, rtol=0)


def test_the_same_seed_gives_the_same_tokens_alone_and_among_sixteen(model: Any, tokenizer: Any) -> None:
    requests = [request(seed, temperature=0.9, top_p=0.95) for seed in range(16)]
    together = decoder.decode_all(model, tokenizer, requests, max_batch=16)
    alone = [decoder.decode_all(model, tokenizer, [one], max_batch=1)[0] for one in requests]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_another_seed_gives_another_answer_also_when_only_the_sign_differs(model: Any, tokenizer: Any) -> None:
    same = prompt(1)
    answers = decoder.decode_all(model, tokenizer, [decoder.DecodeRequest(same, 30, seed=seed) for seed in (7, -7, 7)])
    assert answers[0].token_ids == answers[2].token_ids
    assert answers[0].token_ids != answers[1].token_ids


def test_greedy_equals_generate_token_for_token(model: Any, tokenizer: Any) -> None:
    requests = [request(seed, temperature=0.0, max_tokens=40) for seed in range(12)]
    for asked, answer in zip(requests, decoder.decode_all(model, tokenizer, requests), strict=True):
        expected = model.generate(torch.tensor([asked.prompt_token_ids]), do_sample=False, max_new_tokens=40)
        assert list(answer.token_ids) == expected[0, len(asked.prompt_token_ids) :].tolist()
        assert set(answer.logprobs_sampled) == {0.0}


def test_an_answer_ends_at_the_end_token_which_is_counted_and_not_shown(model: Any, tokenizer: Any) -> None:
    answers = decoder.decode_all(model, tokenizer, [request(seed, max_tokens=100) for seed in range(30)])
    ended = [answer for answer in answers if answer.finish_reason is completions.FinishReason.STOP]
    assert ended
    for answer in ended:
        assert answer.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in answer.token_ids[:-1]
        assert tiny.END not in answer.text
    cut = [answer for answer in answers if answer.finish_reason is completions.FinishReason.LENGTH]
    assert {len(answer.token_ids) for answer in cut} <= {100}


def test_an_answer_ends_where_the_context_ends(model: Any, tokenizer: Any) -> None:
    wide = decoder.DecodeRequest(prompt(2, 150), 100, temperature=0.0)
    answer = decoder.decode_all(model, tokenizer, [wide])[0]
    assert len(answer.token_ids) <= 10
    with pytest.raises(errors.PromptTooLong, match="160"):
        decoder.decode_all(model, tokenizer, [decoder.DecodeRequest(prompt(2, 160), 1)])


def test_sampled_log_probs_are_those_of_the_cut_and_scaled_distribution(model: Any, tokenizer: Any) -> None:
    asked = request(4, temperature=0.7, top_k=5, max_tokens=20)
    answer = decoder.decode_all(model, tokenizer, [asked, request(9)])[0]
    with torch.no_grad():
        logits = model(torch.tensor([asked.prompt_token_ids + answer.token_ids])).logits[0].float()
    for step, (token, sampled) in enumerate(zip(answer.token_ids, answer.logprobs_sampled, strict=True)):
        values, order = (logits[len(asked.prompt_token_ids) - 1 + step] / 0.7).topk(5)
        assert token in order.tolist()
        expected = values.log_softmax(-1)[order.tolist().index(token)].item()
        assert sampled == pytest.approx(expected, abs=1e-4)


def test_penalties_count_this_answers_tokens_only(model: Any, tokenizer: Any) -> None:
    free = request(6, temperature=0.0, max_tokens=30)
    penalised = request(6, temperature=0.0, max_tokens=30, frequency_penalty=2.0, presence_penalty=1.0)
    answers = decoder.decode_all(model, tokenizer, [free, penalised])
    expected = reference_greedy(model, tokenizer, penalised)
    assert list(answers[1].token_ids) == expected
    assert len(set(answers[1].token_ids)) > len(set(answers[0].token_ids))


def reference_greedy(model: Any, tokenizer: Any, asked: decoder.DecodeRequest) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < asked.max_tokens and (not tokens or tokens[-1] != tokenizer.eos_token_id):
        with torch.no_grad():
            logits = model(torch.tensor([list(asked.prompt_token_ids) + tokens])).logits[0, -1].float()
        for token in set(tokens):
            logits[token] -= asked.presence_penalty + asked.frequency_penalty * tokens.count(token)
        tokens.append(int(logits.argmax()))
    return tokens


def test_top_log_probs_are_the_largest_raw_ones_in_order(model: Any, tokenizer: Any) -> None:
    asked = request(8, temperature=0.5, top_logprobs=4, max_tokens=10)
    answer = decoder.decode_all(model, tokenizer, [request(3), asked])[1]
    assert len(answer.top_logprobs) == len(answer.token_ids)
    for items, token, raw in zip(answer.top_logprobs, answer.token_ids, answer.logprobs_raw, strict=True):
        logprobs = [logprob for _, logprob in items]
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(items) == 4
        assert dict(items).get(token, raw) == pytest.approx(raw, abs=1e-5)


def test_a_cancelled_request_leaves_at_once_and_shows_what_it_had(model: Any, tokenizer: Any) -> None:
    running = decoder.Decoder(model, tokenizer, max_batch=2)
    first, second, waiting = (running.submit(request(seed, max_tokens=60, stream=True)) for seed in (1, 2, 3))
    events = running.step() + running.step()
    partial = running.cancel(first)
    assert partial is not None
    assert partial.finish_reason is completions.FinishReason.CANCELLED
    assert len(partial.token_ids) == max(event.tokens for event in events if event.request_id == first)
    never_started = running.cancel(waiting)
    assert never_started is not None
    assert never_started.token_ids == ()
    done: dict[int, decoder.Decoded] = {}
    while running.busy:
        done |= drive(running)
    assert set(done) == {second}
    assert running.cancel(second) is None
    asked = request(2, max_tokens=60)
    assert done[second].token_ids == decoder.decode_all(model, tokenizer, [asked])[0].token_ids


def test_a_cancelled_neighbour_changes_nothing_for_the_others(model: Any, tokenizer: Any) -> None:
    running = decoder.Decoder(model, tokenizer, max_batch=8)
    identities = [running.submit(request(seed, max_tokens=40)) for seed in range(8)]
    done: dict[int, decoder.Decoded] = {}
    for identity in identities[1::2]:
        done |= drive(running)
        running.cancel(identity)
    while running.busy:
        done |= drive(running)
    for seed, identity in enumerate(identities):
        if identity in done:
            alone = decoder.decode_all(model, tokenizer, [request(seed, max_tokens=40)])[0]
            assert done[identity].token_ids == alone.token_ids


def test_choices_of_one_prompt_differ_by_their_seed_and_share_nothing_else(model: Any, tokenizer: Any) -> None:
    same = prompt(11)
    choices = [decoder.DecodeRequest(same, 25, seed=seed) for seed in range(4)]
    together = decoder.decode_all(model, tokenizer, choices)
    assert len({answer.token_ids for answer in together}) == 4
    for asked, answer in zip(choices, together, strict=True):
        expected = full_pass(model, same, answer.token_ids)
        torch.testing.assert_close(torch.tensor(answer.logprobs_raw), expected, atol=1e-4, rtol=0)
        assert answer.token_ids == decoder.decode_all(model, tokenizer, [asked])[0].token_ids


def test_a_model_in_training_is_decoded_in_eval_mode_and_left_training(tokenizer: Any) -> None:
    model = tiny.tiny_llama(VOCABULARY, 1, hidden=16, layers=1, heads=2, intermediate=16)
    model.config.attention_dropout = 0.5
    model.train()
    first, second = (decoder.decode_all(model, tokenizer, [request(1)])[0] for _ in range(2))
    assert first.token_ids == second.token_ids
    assert model.training


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"prompt_token_ids": (), "max_tokens": 5}])
def test_a_request_that_cannot_be_decoded_is_refused(model: Any, tokenizer: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidField):
        decoder.Decoder(model, tokenizer).submit(decoder.DecodeRequest(**({"prompt_token_ids": (1,)} | bad)))
