"""A server that speaks as text-generation-inference does, on a real model: written from its API description.

    python -m tests.engines.tgi_server FOLDER --port 8080

What it reads and says is held to `tgi_api.json`, an excerpt of docs/openapi.json of text-generation-inference 2.4.1
(Apache 2.0). How a token is drawn, and which log-probs are said of it, is as in that release's
`server/text_generation_server/utils/tokens.py`: scores are divided by the temperature and cut, and the log-probs are
those of what is left.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jsonschema
import torch
import transformers
import uvicorn
from starlette import applications, requests, responses, routing
from tests import serving as servers

from trimtab.rpc import ports

_MOST_TOP_TOKENS, _MOST_INPUT, _MOST_TOTAL = 5, 1024, 2048
_API = json.loads(pathlib.Path(__file__).with_name("tgi_api.json").read_text())
FAULTS = ("overloaded", "generation", "breaks", "other-tokens")


def check(name: str, said: Any) -> Any:
    """`said`, which is what the API description calls so; ValidationError when it is not."""
    jsonschema.validate(said, {**_API, "$ref": f"#/components/schemas/{name}"})
    return said


class Refused(Exception):
    def __init__(self, status: int, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.status, self.said = status, check("ErrorResponse", {"error": problem, "error_type": kind})


class Server:
    """fault: one of FAULTS, that it has in every answer; empty: none."""

    def __init__(self, folder: str, fault: str) -> None:
        self._folder = folder
        self._fault = fault
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._ends = self._model.generation_config.eos_token_id
        self._turns = threading.Lock()
        self._answering = 0

    def routes(self) -> list[routing.Route]:
        return [
            routing.Route("/health", lambda _: responses.Response()),
            routing.Route("/info", self._info),
            routing.Route(
                "/metrics", lambda _: responses.PlainTextResponse(f"tgi_batch_current_size {self._answering}\n")
            ),
            routing.Route("/tokenize", self._tokenize, methods=["POST"]),
            routing.Route("/generate", self._generate, methods=["POST"]),
            routing.Route("/", self._compatible, methods=["POST"]),
        ]

    async def _info(self, _: requests.Request) -> responses.Response:
        limits = {"max_input_tokens": _MOST_INPUT, "max_total_tokens": _MOST_TOTAL, "max_stop_sequences": 4}
        known = {"model_id": self._folder, "router": "text-generation-router", "version": "2.4.1"} | limits
        counts = {"max_concurrent_requests": 128, "max_best_of": 2, "validation_workers": 2, "max_client_batch_size": 4}
        return responses.JSONResponse(check("Info", known | counts))

    async def _tokenize(self, request: requests.Request) -> responses.Response:
        read = self._tokenizer(check("GenerateRequest", await request.json())["inputs"])["input_ids"]
        if self._fault == "other-tokens":
            read = [0, *read]
        tokens = [{"id": token, "text": "", "start": 0, "stop": 0} for token in read]
        return responses.JSONResponse(check("TokenizeResponse", tokens))

    async def _generate(self, request: requests.Request) -> responses.Response:
        asked = check("GenerateRequest", await request.json())
        try:
            events = [event async for event in self._events(asked["inputs"], asked.get("parameters", {}))]
        except Refused as problem:
            return responses.JSONResponse(problem.said, problem.status)
        last = events[-1]
        counts = {key: last["details"][key] for key in ("finish_reason", "generated_tokens")}
        details = counts | {"prefill": [], "tokens": [event["token"] for event in events]}
        said = {"generated_text": last["generated_text"], "details": details}
        return responses.JSONResponse(check("GenerateResponse", said))

    async def _compatible(self, request: requests.Request) -> responses.Response:
        asked = check("CompatGenerateRequest", await request.json())
        assert asked["stream"]  # as Trimtab asks
        events = self._events(asked["inputs"], asked.get("parameters", {}))
        try:
            first = await anext(events)
        except Refused as problem:
            return responses.JSONResponse(problem.said, problem.status)

        async def stream() -> AsyncIterator[str]:
            yield _event(first)
            try:
                async for event in events:
                    if self._fault == "breaks" and event["index"] > 2:
                        raise ConnectionAbortedError
                    yield _event(event)
            except Refused as problem:
                yield _event(problem.said)

        return responses.StreamingResponse(stream(), media_type="text/event-stream")

    async def _events(self, inputs: str, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Of each token, as `StreamResponse`. Refused, as `ErrorResponse`, before the first or between two."""
        if self._fault == "overloaded":
            raise Refused(429, "overloaded", "Model is overloaded")
        prompt = self._tokenizer(inputs)["input_ids"]
        most = parameters["max_new_tokens"]
        if len(prompt) > _MOST_INPUT or len(prompt) + most > _MOST_TOTAL:
            raise Refused(
                422,
                "validation",
                f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {_MOST_TOTAL}",
            )
        if (parameters.get("top_n_tokens") or 0) > _MOST_TOP_TOKENS:
            raise Refused(
                422, "validation", f"Input validation error: `top_n_tokens` must be >= 0 and <= {_MOST_TOP_TOKENS}"
            )
        self._answering += 1
        try:
            async for said in self._tokens(prompt, most, _Drawing(parameters)):
                yield said
        finally:
            self._answering -= 1

    async def _tokens(self, prompt: list[int], most: int, drawing: "_Drawing") -> AsyncIterator[dict[str, Any]]:
        cache, fresh, made = None, prompt, []
        for index in range(most):
            if self._fault == "generation" and index > 2:
                raise Refused(424, "generation", "Request failed during generation: Server error: out of memory")
            scores, cache = await asyncio.to_thread(self._scores, fresh, cache)
            token, logprobs = drawing.draw(scores)
            made.append(token)
            reason = "length" if len(made) == most else "eos_token" if token in _several(self._ends) else None
            said = {"index": index, "token": self._token(token, logprobs), "generated_text": None}
            if drawing.top:
                said["top_tokens"] = [self._token(int(one), logprobs) for one in logprobs.topk(drawing.top).indices]
            if reason:
                said["generated_text"] = self._tokenizer.decode(made, skip_special_tokens=True)
                counts = {"generated_tokens": len(made), "input_length": len(prompt)}
                said["details"] = {"finish_reason": reason, **counts}
            yield check("StreamResponse", said)
            if reason:
                return
            fresh = [token]

    def _scores(self, fresh: list[int], cache: Any) -> tuple[torch.Tensor, Any]:
        with self._turns, torch.no_grad():
            given = self._model(torch.tensor([fresh]), past_key_values=cache, use_cache=True)
        return given.logits[0, -1].float(), given.past_key_values

    def _token(self, token: int, logprobs: torch.Tensor) -> dict[str, Any]:
        logprob = float(logprobs[token])
        return {
            "id": token,
            "text": self._tokenizer.decode([token]),
            "logprob": logprob if logprob > float("-inf") else None,
            "special": token in self._tokenizer.all_special_ids,
        }


class _Drawing:
    """How tokens are drawn: as `NextTokenChooser` does."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.top = parameters.get("top_n_tokens") or 0
        self._temperature = parameters.get("temperature") or 1.0
        self._top_k, self._top_p = parameters.get("top_k") or 0, parameters.get("top_p") or 1.0
        self._samples = parameters.get("do_sample") or self._top_k or self._top_p < 1 or self._temperature != 1
        self._generator = torch.Generator().manual_seed(parameters.get("seed") or 0)

    def draw(self, scores: torch.Tensor) -> tuple[int, torch.Tensor]:
        scores = scores / self._temperature
        if self._top_k:
            scores = scores.masked_fill(scores < scores.topk(self._top_k).values[-1], float("-inf"))
        if self._top_p < 1:
            ordered, places = scores.sort()
            cut = ordered.softmax(-1).cumsum(-1) <= 1 - self._top_p
            cut[-1] = False
            scores = scores.masked_fill(torch.zeros_like(cut).scatter(0, places, cut), float("-inf"))
        logprobs = scores.log_softmax(-1)
        drawn = torch.multinomial(logprobs.exp(), 1, generator=self._generator) if self._samples else scores.argmax()
        return int(drawn), logprobs


def _several(ends: int | list[int] | None) -> list[int]:
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _event(said: dict[str, Any]) -> str:
    return f"data:{json.dumps(said)}\n\n"


@contextlib.contextmanager
def serving(folder: pathlib.Path, log: pathlib.Path, fault: str = "") -> Iterator[str]:
    """The address of a server on `folder`, that answers; ended whatever happens."""
    port = ports.free_port()
    command = [sys.executable, "-m", "tests.engines.tgi_server", str(folder), f"--port={port}", f"--fault={fault}"]
    url = f"http://127.0.0.1:{port}"
    with servers.serving(command, f"{url}/health", log):
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", default="", choices=("", *FAULTS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    served = Server(asked.folder, asked.fault)
    uvicorn.run(applications.Starlette(routes=served.routes()), host="127.0.0.1", port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
