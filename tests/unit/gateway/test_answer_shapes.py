"""Answers as OpenAI spells them."""

from trimtab.core import completions, text
from trimtab.gateway import shapes


def event(choice: int, delta: str = "", **more: object) -> completions.StreamCompleteResponse:
    return completions.StreamCompleteResponse("id", choice, delta, 1, "f" * 64, **more)  # type: ignore[arg-type]


def writer(*, include_usage: bool = False) -> shapes.ChunkWriter:
    return shapes.ChunkWriter("id", "support", "f" * 64, 5, include_usage)


def test_each_choice_starts_with_its_role_and_ends_with_its_reason() -> None:
    chunks = writer()
    made = [
        chunk["choices"][0]
        for item in (event(0, "a"), event(1, "b"), event(0, "c", finish_reason=completions.FinishReason.STOP))
        for chunk in chunks.chunks(item)
    ]
    assert [(part["index"], part["delta"].get("role"), part["delta"].get("content")) for part in made] == [
        (0, "assistant", ""),
        (0, None, "a"),
        (1, "assistant", ""),
        (1, None, "b"),
        (0, None, "c"),
        (0, None, None),
    ]
    assert [part["finish_reason"] for part in made] == [None] * 5 + ["stop"]


def test_usage_comes_last_without_choices_and_only_when_asked_for() -> None:
    last = event(0, finish_reason=completions.FinishReason.LENGTH, usage=completions.Usage(3, 4))
    assert all("usage" not in chunk for chunk in writer().chunks(last))
    *before, usage = writer(include_usage=True).chunks(last)
    assert all(chunk["usage"] is None for chunk in before)
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_logprobs_are_the_policys_own_with_their_alternatives() -> None:
    response = completions.Response(
        choice=0,
        text=text.Text("é"),
        token_ids=(7,),
        tokens=("é",),
        logprobs_raw=(-0.5,),
        logprobs_sampled=(0.0,),
        top_logprobs=(completions.TokenAlternatives((completions.TokenAlternative(7, "é", -0.5),)),),
    )
    token = {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}
    assert shapes.logprobs(response) == {"content": [token | {"top_logprobs": [token]}], "refusal": None}
