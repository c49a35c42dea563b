"""Streamed text: never half a character, never a piece of a stop string, and in sum the whole answer."""

import random
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from trimtab.core import completions
from trimtab.modeling import decoder, detokenize, tiny

torch.set_num_threads(1)

SENTENCE = "Grüße aus Köln: 你好, 世界! 🙂👩‍👩‍👧 naïve — ok."


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return tiny.train_bpe(["plain English only, so other letters take several tokens"], 280)


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    """As SentencePiece models do it: a token per byte of what the vocabulary lacks, and a space in front."""
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0)] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    vocabulary += [("▁", -2.0)] + [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyzGK:,.!"]
    raw = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    raw.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_pieces_are_whole_characters_and_sum_to_the_answer(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    stream = detokenize.TextStream(tokenizer, ())
    tokens = tokenizer.encode(SENTENCE, add_special_tokens=False)
    assert len(tokens) > len(SENTENCE)
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == SENTENCE == detokenize.decode(tokenizer, tokens) == stream.text
    assert all("\ufffd" not in piece for piece in pieces)


def test_an_answer_cut_inside_a_character_ends_before_it(byte_level: Any) -> None:
    tokens = byte_level.encode("ok 🙂", add_special_tokens=False)[:-1]
    stream = detokenize.TextStream(byte_level, ())
    shown = "".join(stream.push(token) for token in tokens) + stream.finish()
    assert shown == "ok " == detokenize.decode(byte_level, tokens)


def test_bytes_that_are_no_character_do_not_hold_the_stream_back(byte_level: Any) -> None:
    byte = byte_level.encode("ü", add_special_tokens=False)[1]  # a continuation byte on its own
    letter = byte_level.encode("a", add_special_tokens=False)[0]
    stream = detokenize.TextStream(byte_level, ())
    pieces = [stream.push(token) for token in [byte] * 40 + [letter]]
    assert sum(len(piece) for piece in pieces[:40]) >= 37
    assert stream.text == "\ufffd" * 40 + "a"


def test_a_stop_string_across_tokens_ends_the_answer_and_is_never_shown(byte_level: Any) -> None:
    stream = detokenize.TextStream(byte_level, ("STOPPED", "END."))
    pieces = []
    for token in byte_level.encode("go on STOP it EN END. more", add_special_tokens=False):
        pieces.append(stream.push(token))
        assert not "".join(pieces).endswith(("STOP", "E"))  # may still become one
        if stream.stopped:
            break
    assert stream.stopped
    assert "".join(pieces) + stream.finish() == "go on STOP it EN " == stream.text


def test_text_held_back_for_a_stop_string_is_shown_at_the_end(byte_level: Any) -> None:
    stream = detokenize.TextStream(byte_level, ("xyz",))
    shown = "".join(stream.push(token) for token in byte_level.encode("abc xy", add_special_tokens=False))
    assert shown == "abc "
    assert stream.finish() == "xy"
    assert stream.text == "abc xy"


@pytest.mark.parametrize("seed", range(8))
def test_of_overlapping_stop_strings_the_one_that_begins_first_cuts(byte_level: Any, seed: int) -> None:
    chooser = random.Random(seed)
    text = "".join(chooser.choice("ab") for _ in range(60))
    stops = tuple("".join(chooser.choice("ab") for _ in range(chooser.randint(3, 7))) for _ in range(3))
    stream = detokenize.TextStream(byte_level, stops)
    for letter in text:
        stream.push(byte_level.encode(letter, add_special_tokens=False)[0])
        if stream.stopped:
            break
    stream.finish()
    # as letters arrive, the first stop string to be complete ends the answer
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        done = text[: min(ends)]
        assert stream.text == done[: min(done.find(stop) for stop in stops if stop in done)]
    else:
        assert stream.text == text


def test_streaming_and_not_streaming_give_the_same_answer_with_stop_strings_too() -> None:
    tokenizer = tiny.train_bpe([SENTENCE, "plain words"], 300)
    model = tiny.tiny_llama(len(tokenizer), 5, hidden=32, layers=2, heads=2, intermediate=48)
    free = decoder.decode_all(model, tokenizer, [decoder.DecodeRequest((5, 6), 60, seed=seed) for seed in range(10)])
    for seed, whole in enumerate(free):
        running = decoder.Decoder(model, tokenizer)
        running.submit(decoder.DecodeRequest((5, 6), 60, seed=seed, stream=True))
        events = [event for _ in range(60) if running.busy for event in running.step()]
        assert "".join(event.delta for event in events) == whole.text
        assert [event.tokens for event in events] == list(range(1, len(whole.token_ids) + 1))
        stop = whole.text[len(whole.text) // 2 :][:3]
        stopped = decoder.decode_all(model, tokenizer, [decoder.DecodeRequest((5, 6), 60, seed=seed, stop=(stop,))])[0]
        assert stopped.text == whole.text[: whole.text.find(stop)]
        assert stopped.finish_reason is completions.FinishReason.STOP
        assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]
