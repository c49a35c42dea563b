"""What is made of what another process says it generated."""

from typing import Any

import pydantic
import pytest
from tests.services.policy import harness

from trimtab.core import completions
from trimtab.modeling import loading
from trimtab.policy import engine, openai, remote_answer

Finish = completions.FinishReason
PLAIN = completions.Sampling(1.0, 1.0, 0, 20, seed=1, presence_penalty=0.0, frequency_penalty=0.0)


@pytest.fixture(scope="module")
def front(installation: harness.Installation) -> loading.Front:
    return loading.load_front(installation.registry.fetch(installation.model_id))


def said(*tokens: int, **changes: Any) -> dict[str, Any]:
    names = [f"token_id:{token}" for token in tokens]
    logprobs = {
        "tokens": names,
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": [{name: -0.5} for name in names],
    }
    return {"text": "x", "token_ids": list(tokens), "logprobs": logprobs, "finish_reason": None} | changes


@pytest.mark.parametrize("changes", [{"token_ids": None}, {"token_ids": [5, 7]}, {"logprobs": None}])
def test_tokens_that_are_not_said_exactly_are_refused(changes: dict[str, Any]) -> None:
    assert openai.chunk(said(5, 6)).token_ids == (5, 6)
    with pytest.raises(engine.EngineFailed, match="ids of its tokens"):
        openai.chunk(said(5, 6, **changes))


def test_an_end_for_another_reason_is_no_answer() -> None:
    with pytest.raises(engine.EngineFailed, match="'abort'"):
        openai.chunk(said(5, finish_reason="abort"))


def test_an_answer_ends_at_the_end_token_whatever_comes_after(front: loading.Front) -> None:
    (end, *_) = front.end_tokens
    tokens = front.tokenizer("tone", add_special_tokens=False)["input_ids"]
    answer = remote_answer.Answer(0, PLAIN, front, remote_answer.RAW, stream=False)
    assert answer.take(openai.chunk(said(*tokens, end, *tokens))) is None
    assert answer.finish is Finish.STOP
    result = answer.last(Finish.STOP).result
    assert result is not None
    assert (result.token_ids, result.text.read()) == ((*tokens, end), "tone")


@pytest.mark.parametrize(
    "given",
    [
        {"engine": "openai"},
        {"engine_url": "http://127.0.0.1:8000"},
        {"engine_command": "vllm serve {folder} --port={port}"},
        {
            "engine": "openai",
            "engine_url": "http://127.0.0.1:8000",
            "engine_command": "vllm serve {folder} --port={port}",
        },
    ],
)
def test_an_engine_and_its_address_are_given_together(
    installation: harness.Installation, given: dict[str, str]
) -> None:
    with pytest.raises(
        pydantic.ValidationError, match="give `engine_url` or `engine_command` with `engine` openai or tgi"
    ):
        installation.settings(**given)


def test_an_engines_command_says_where_the_folder_goes(installation: harness.Installation) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"no \{folder\} or no \{port\}"):
        installation.settings(engine="openai", engine_command="vllm serve")
