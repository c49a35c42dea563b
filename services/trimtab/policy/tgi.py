"""The engine `tgi`: how a text-generation-inference is asked, through Hugging Face's own client. A `remote.Dialect`.

Built by `policy.app`, called by `policy.remote`. It takes text, never token ids, so a prompt is sent only where its
text reads back to the very ids; its log-probs are those of what it samples from (`HeterogeneousNextTokenChooser` in its
server). API: https://huggingface.github.io/text-generation-inference
"""

import dataclasses
import urllib.parse
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import psutil

from trimtab.core import completions, errors
from trimtab.policy import engine, proof, remote, remote_answer

if TYPE_CHECKING:
    from huggingface_hub import TextGenerationStreamOutput

_MAX_SEED = 2**63 - 1
_PROCESSES = "text-generation-"  # the launcher, and the router that it starts and that listens
_REASONS = {
    "eos_token": completions.FinishReason.STOP,
    "stop_sequence": completions.FinishReason.STOP,
    "length": completions.FinishReason.LENGTH,
}
_TRIAL = "Grüße 🙂 1 + 1?\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """inputs: the prompt as text; parameters: as `text_generation` takes them."""

    inputs: str
    parameters: dict[str, Any]


class TGI:
    """url: of the server."""

    name: ClassVar[str] = "tgi"
    # its frequency penalty counts the prompt's tokens as well, and by the length of all: another thing
    unsupported: ClassVar[tuple[str, ...]] = ("presence_penalty", "frequency_penalty")
    logprobs: ClassVar[str] = remote_answer.SAMPLED

    def __init__(self, url: str) -> None:
        self._url = url
        self._most_input = 0

    def is_up(self, client: httpx.Client) -> bool:
        response = client.get("/health", timeout=remote.CONNECT_S)
        if response.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
            raise remote.refused(self._url, response.status_code, response.text)
        return response.status_code == httpx.codes.OK

    def prove(self, client: httpx.Client, verified: remote.Verified) -> remote.Proven:
        info = self._asked(client.get("/info"))
        started_at = self._listening_since()
        folder, address = verified.folder, urllib.parse.urlsplit(self._url)
        start = (
            f"text-generation-launcher --model-id={folder.resolve()} --hostname=127.0.0.1 --port={address.port or 80}"
        )
        proof.check(self._url, proof.Served(str(info["model_id"]), started_at), folder, verified.model_id, start)
        self._most_input = int(info["max_input_tokens"])
        self._try_out(client, verified)
        return remote.Proven(int(info["max_total_tokens"]), started_at or 0.0)

    def started_at(self, client: httpx.Client) -> float:
        client.get("/health", timeout=remote.CONNECT_S)
        return self._listening_since() or 0.0

    def body(
        self, verified: remote.Verified, prompt: tuple[int, ...], sampling: completions.Sampling, choice: int
    ) -> Body:
        """InvalidField where the log-probs asked for are not those it says, or the text does not read back."""
        if len(prompt) > self._most_input:
            raise errors.PromptTooLong(len(prompt), self._most_input)
        if sampling.logprobs and not remote_answer.both(sampling, self.logprobs, (0.0,))[0]:
            raise errors.InvalidField(
                "logprobs",
                f"are those of the policy itself, and the engine {self.name!r} says those of what it samples from",
                "send temperature 0 or 1 without top_p and penalties, or leave it out",
            )
        drawn: dict[str, Any] = {"do_sample": bool(sampling.temperature)}
        if sampling.temperature:
            # what leaves everything as it is has to be left out
            drawn |= {"temperature": sampling.temperature, "top_k": sampling.top_k or None}
            drawn["top_p"] = None if sampling.top_p == 1.0 else sampling.top_p
        return Body(
            _as_text(verified.front.tokenizer, prompt),
            drawn
            | {
                "max_new_tokens": sampling.max_tokens,
                "seed": ((sampling.seed or 0) + choice) % _MAX_SEED + 1,  # above 0
                "top_n_tokens": sampling.top_logprobs or None,
                "return_full_text": False,
            },
        )

    async def chunks(self, body: object) -> AsyncGenerator[remote_answer.Chunk]:
        import httpx2  # what its client is made of
        import huggingface_hub  # late: half a second, for this engine alone
        from huggingface_hub import errors as hub

        assert isinstance(body, Body)
        try:
            # one for each answer: it ends a stream that is left only when it ends itself, and frees the room there so
            async with huggingface_hub.AsyncInferenceClient(self._url, token=None, timeout=remote.SILENCE_S) as client:
                said = await client.text_generation(body.inputs, stream=True, details=True, **body.parameters)
                async for event in said:
                    yield _chunk(event)
        except httpx2.ConnectError as problem:
            raise errors.ServiceUnavailable(f"The engine at {self._url} is away ({problem}); retry.") from problem
        except hub.OverloadedError as problem:
            raise errors.Overloaded(
                f"The engine at {self._url} has no room ({problem}); retry with back-off."
            ) from problem
        except hub.ValidationError as problem:
            field = "top_logprobs" if "top_n_tokens" in str(problem) else "messages"
            raise errors.InvalidField(field, f"were refused by the engine ({problem})", "ask for less") from problem
        except (
            hub.TextGenerationError,
            hub.HfHubHTTPError,
            hub.InferenceTimeoutError,
            httpx2.HTTPError,
            ValueError,
        ) as problem:
            raise engine.EngineFailed(
                f"The engine at {self._url} failed in an answer ({type(problem).__name__}: {problem}); ask again."
            ) from problem

    async def close(self) -> None:
        """Nothing stays open between answers."""

    def _try_out(self, client: httpx.Client, verified: remote.Verified) -> None:
        """WrongState for a server that reads other tokens than we do, or answers without the ids of its own."""
        tokenizer = verified.front.tokenizer
        known = tuple(tokenizer(_TRIAL)["input_ids"])
        read = tuple(token["id"] for token in self._asked(client.post("/tokenize", json={"inputs": _TRIAL})))
        if read != known:
            raise errors.WrongState(
                f"The engine at {self._url} reads {_TRIAL!r} as tokens {read}; the policy as {known}."
            )
        asked = {"inputs": _TRIAL, "parameters": {"max_new_tokens": 1, "details": True}}
        tokens = (self._asked(client.post("/generate", json=asked)).get("details") or {}).get("tokens")
        if not tokens or "id" not in tokens[0] or "logprob" not in tokens[0]:
            raise errors.WrongState(f"The engine at {self._url} does not say the ids and log-probs of its tokens.")

    def _asked(self, response: httpx.Response) -> Any:
        if response.status_code != httpx.codes.OK:
            raise remote.refused(self._url, response.status_code, response.text)
        return response.json()

    def _listening_since(self) -> float | None:
        """When the first process began of those that belong to who listens there; None when none can be seen."""
        port = urllib.parse.urlsplit(self._url).port or 80
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                listener = psutil.Process(connection.pid)
                above = [one for one in listener.parents() if one.name().startswith(_PROCESSES)]
                return float(min(one.create_time() for one in (listener, *above)))
        return None


def _as_text(tokenizer: Any, prompt: tuple[int, ...]) -> str:
    """The text that the server, with the same tokenizer, reads as these ids. It puts a first token before every text
    where the tokenizer says so, so that one is left out then."""
    whole: str = tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    for said in (whole, whole.removeprefix(tokenizer.bos_token or "")):
        if tuple(tokenizer(said)["input_ids"]) == prompt:
            return said
    raise errors.InvalidField(
        "messages", "read as other tokens once they are text, and the engine 'tgi' takes text alone", "change them"
    )


def _chunk(event: "TextGenerationStreamOutput") -> remote_answer.Chunk:
    reason = event.details.finish_reason if event.details else None
    return remote_answer.Chunk(
        (event.token.id,),
        (event.token.logprob,),
        (tuple((one.id, one.logprob) for one in event.top_tokens or ()),),
        None if reason is None else _REASONS[reason],
    )
