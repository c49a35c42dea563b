"""The engine `openai`: how a vLLM is asked, over its completions API. A `remote.Dialect`.

Built by `policy.app`, called by `policy.remote`. Prompts go out as token ids of the policy's own template; answers come
back as token ids, so both mean the same as with the local engine.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import httpx

from trimtab.core import completions, errors
from trimtab.policy import engine, proof, remote, remote_answer

_KEPT_S = 2.0  # an idle connection; vLLM closes its own after 5
_LOWEST_TEMPERATURE = 0.01  # vLLM takes smaller ones for this
_MAX_SEED = 2**63 - 1
_IMPOSSIBLE = -9000.0  # vLLM says -9999 for a token without any probability
_ID = "token_id:"
_REASONS = {"stop": completions.FinishReason.STOP, "length": completions.FinishReason.LENGTH}
_TRIAL = completions.Sampling(1.0, 1.0, 1, 1, seed=0, presence_penalty=0.0, frequency_penalty=0.0, top_logprobs=2)


class OpenAI:
    """url: of the server; max_open: connections that are kept."""

    name: ClassVar[str] = "openai"
    unsupported: ClassVar[tuple[str, ...]] = ()
    logprobs: ClassVar[str] = remote_answer.RAW

    def __init__(self, url: str, *, max_open: int) -> None:
        self._url = url
        self._max_open = max_open
        self._client: httpx.AsyncClient | None = None

    def is_up(self, client: httpx.Client) -> bool:
        self._cards(client)
        return True

    def prove(self, client: httpx.Client, verified: remote.Verified) -> remote.Proven:
        card = next((one for one in self._cards(client) if one["id"] == verified.model_id), None)
        started_at = self.started_at(client)
        served = None if card is None else proof.Served(str(card.get("root")), started_at)
        start = f"vllm serve {verified.folder.resolve()} --served-model-name={verified.model_id} --host=127.0.0.1"
        proof.check(self._url, served, verified.folder, verified.model_id, start)
        assert card is not None  # else it was refused
        self._try_out(client, self.body(verified, (min(verified.front.end_tokens),), _TRIAL, 0))
        return remote.Proven(int(card.get("max_model_len") or verified.front.context_tokens), started_at)

    def started_at(self, client: httpx.Client) -> float:
        """By the server's own metrics; the end of time would pass, so without a word it is 0."""
        for line in client.get("/metrics").text.splitlines():
            if line.startswith("process_start_time_seconds "):
                return float(line.split()[1])
        return 0.0

    def body(
        self, verified: remote.Verified, prompt: tuple[int, ...], sampling: completions.Sampling, choice: int
    ) -> dict[str, Any]:
        """Everything is said: what is left out, vLLM takes from the model's generation_config.json."""
        if sampling.temperature and sampling.temperature < _LOWEST_TEMPERATURE:
            problem = (
                f"is {sampling.temperature:g}, and engine {self.name!r} has none between 0 and {_LOWEST_TEMPERATURE}"
            )
            raise errors.InvalidField("temperature", problem, f"send 0 or at least {_LOWEST_TEMPERATURE}")
        names = ("max_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")
        return {name: getattr(sampling, name) for name in names} | {
            "model": verified.model_id,
            "prompt": prompt,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": ((sampling.seed or 0) + choice) & _MAX_SEED,
            "stop": sampling.stop,
            "stop_token_ids": sorted(verified.front.end_tokens),
            "logprobs": sampling.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stream": True,
        }

    async def chunks(self, body: object) -> AsyncGenerator[remote_answer.Chunk]:
        if self._client is None:
            limits = httpx.Limits(
                max_connections=None, max_keepalive_connections=self._max_open, keepalive_expiry=_KEPT_S
            )
            timeout = httpx.Timeout(remote.SILENCE_S, connect=remote.CONNECT_S)
            self._client = httpx.AsyncClient(base_url=self._url, timeout=timeout, limits=limits)
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise remote.refused(
                        self._url, response.status_code, (await response.aread()).decode(errors="replace")
                    )
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    said = json.loads(line.removeprefix("data: "))
                    if "error" in said:
                        raise remote.refused(self._url, response.status_code, json.dumps(said["error"]))
                    for choice in said["choices"]:
                        yield chunk(choice)
        except (httpx.ConnectError, httpx.ConnectTimeout) as problem:
            raise errors.ServiceUnavailable(f"The engine at {self._url} is away ({problem}); retry.") from problem
        except (httpx.HTTPError, ValueError) as problem:
            raise engine.EngineFailed(
                f"The engine at {self._url} failed in an answer ({type(problem).__name__}: {problem}); ask again."
            ) from problem

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _cards(self, client: httpx.Client) -> list[dict[str, Any]]:
        """The models that the server names."""
        response = client.get("/v1/models", timeout=remote.CONNECT_S)
        if response.status_code != httpx.codes.OK:
            raise remote.refused(self._url, response.status_code, response.text)
        cards: list[dict[str, Any]] = response.json()["data"]
        return cards

    def _try_out(self, client: httpx.Client, body: dict[str, Any]) -> None:
        """Refuses a server that answers without token ids, or whose log-probs are not those of the policy itself."""
        response = client.post("/v1/completions", json=body | {"stream": False})
        if response.status_code != httpx.codes.OK:
            raise remote.refused(self._url, response.status_code, response.text)
        tried = chunk(response.json()["choices"][0])
        # top_k is 1: of the distribution drawn from, every other token has no probability
        given = [logprob for items in tried.top for _, logprob in items]
        if not given or min(given) < _IMPOSSIBLE:
            raise errors.WrongState(
                f"The engine at {self._url} reports no log-probs, or those of what it samples from; start it with "
                "--logprobs-mode=raw_logprobs."
            )


def chunk(choice: dict[str, Any]) -> remote_answer.Chunk:
    """From a choice of the completions API. EngineFailed when it does not say exactly which tokens were generated."""
    token_ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _REASONS:
        raise engine.EngineFailed(f"The engine ended an answer for the reason {reason!r}; ask again.")
    finish = None if reason is None else _REASONS[reason]
    if not token_ids and not (logprobs or {}).get("tokens") and (finish or not choice.get("text")):
        return remote_answer.Chunk((), (), (), finish)  # the end, or a sign of life
    if token_ids is None or logprobs is None or logprobs["tokens"] != [f"{_ID}{token}" for token in token_ids]:
        raise engine.EngineFailed(
            "The engine does not return the ids of its tokens with a log-prob each; use a vLLM that knows "
            "`return_token_ids` and `return_tokens_as_token_ids`."
        )
    return remote_answer.Chunk(
        tuple(token_ids),
        tuple(logprobs["token_logprobs"]),
        tuple(
            tuple((int(name.removeprefix(_ID)), logprob) for name, logprob in (items or {}).items())
            for items in logprobs["top_logprobs"]
        ),
        finish,
    )
