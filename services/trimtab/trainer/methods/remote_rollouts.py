"""Answers that a policy process draws for a run, over gRPC: the other source of `trainer.methods.rollouts`.

A policy process serves one policy for life, so what it draws with stays behind as training goes on: its staleness is
counted in iterations and bounded. Its number format may differ as well. `trainer.methods.learner` corrects for both.
Where the run writes its weights down on its way (`trainer.links.snapshots`), it waits until a process with the newest
ones answers at the address, and takes what is there if none comes in time: what is too old is refused and counted.
An iteration's answers are journaled before anything is learned from them (`trainer.methods.elsewhere`).
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence

from trimtab.core import completions, errors, failpoints, text
from trimtab.trainer.data import encoding
from trimtab.trainer.links import snapshots
from trimtab.trainer.methods import elsewhere, rollouts
from trimtab.wire import calls

# Requests under way at once; a policy process queues what it cannot batch.
_AT_ONCE = 16
_LOOK_EVERY_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class Refresh:
    """How a sampler gets newer weights. save: writes the policy of now into a folder."""

    every: int
    snapshots: snapshots.Snapshots
    save: Callable[[pathlib.Path], None]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyService:
    """A policy process as a sampler.

    folder: of the run. context: tenant and line that the process's own records get; the texts are not kept there.
    parent_id: of the policy that the run started from. refresh: None where that is drawn with to the end. timeout_s: of
    one completion.
    """

    door: elsewhere.Door
    folder: pathlib.Path
    context: text.Context
    parent_id: str
    max_staleness: int
    refresh: Refresh | None = None
    timeout_s: float = calls.GENERATE_S

    def draw(
        self,
        prompts: Sequence[rollouts.EncodedPrompt],
        samples: int,
        max_tokens: int,
        *,
        iteration: int,
        seed: int,
    ) -> list[rollouts.Drawn]:
        """What the journal holds, or what the process answers now.

        When it answers nothing, ServiceUnavailable if asking later may help and WrongState if not.
        """
        path = elsewhere.entry(self.folder, elsewhere.ROLLOUTS, iteration)
        if not path.exists():
            self._refresh(iteration)
            drawn = asyncio.run(self._ask(prompts, samples, max_tokens, iteration, seed))
            failpoints.reach("trainer.rollouts.before_journal")
            elsewhere.write(path, [dataclasses.asdict(one) for one in drawn])
            failpoints.reach("trainer.rollouts.journaled")
        return _read(path)

    def _refresh(self, iteration: int) -> None:
        if self.refresh is not None and iteration and iteration % self.refresh.every == 0:
            self.refresh.snapshots.take(iteration, self.context, self.parent_id, self.refresh.save)
            self.refresh.snapshots.forget_weights(iteration - self.max_staleness)

    def _iteration_of(self, now: int) -> dict[str, int]:
        """At which iteration of this run a policy id was what is in training, for those it ever was."""
        taken = self.refresh.snapshots.all() if self.refresh is not None else []
        return {self.parent_id: 0} | {one.model_id: one.iteration for one in taken if one.iteration <= now}

    async def _until_newest(self, policy: calls.PolicyCalls, iteration_of: Mapping[str, int]) -> None:
        """Waits for a process that serves the newest weights, as long as for one that starts."""
        newest = max(iteration_of.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.door.ready_s):
                while True:
                    with contextlib.suppress(errors.TrimtabError):  # one process ends and another starts
                        if iteration_of.get((await policy.describe()).policy_id) == newest:
                            return
                    await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask(
        self, prompts: Sequence[rollouts.EncodedPrompt], samples: int, max_tokens: int, iteration: int, seed: int
    ) -> list[rollouts.Drawn]:
        sampling = completions.Sampling(
            temperature=1.0, top_p=1.0, top_k=0, max_tokens=max_tokens, presence_penalty=0.0, frequency_penalty=0.0
        )
        room = asyncio.Semaphore(_AT_ONCE)
        async with self.door.open() as channel:
            policy = calls.PolicyCalls(channel)
            iteration_of = self._iteration_of(iteration)
            if self.refresh is not None:
                await self._until_newest(policy, iteration_of)

            async def ask(number: int, prompt: rollouts.EncodedPrompt) -> list[rollouts.Drawn] | errors.TrimtabError:
                its_seed = encoding.seed_of(seed, number) >> 1  # each choice adds its number to it
                request = completions.CompleteRequest(
                    messages=prompt.messages,
                    sampling=dataclasses.replace(sampling, seed=its_seed),
                    n=samples,
                    assignment=self._assignment(iteration, number),
                )
                async with room:
                    try:
                        answer = await policy.complete(request, timeout_s=self.timeout_s)
                    except errors.TrimtabError as problem:
                        return problem
                since = iteration_of.get(answer.completion.policy_id)
                return self._drawn(prompt, answer.completion, None if since is None else iteration - since, samples)

            answers = await asyncio.gather(*(ask(number, prompt) for number, prompt in enumerate(prompts)))
        problems = [one for one in answers if isinstance(one, errors.TrimtabError)]
        if len(problems) == len(prompts):
            what = f"The policy process at {self.door.address} answered none of {len(prompts)} prompts"
            raise elsewhere.nothing_came(what, problems)
        lost = _refused("no answer from the policy process", samples)
        return [drawn for one in answers for drawn in (lost if isinstance(one, errors.TrimtabError) else one)]

    def _assignment(self, iteration: int, number: int) -> completions.Assignment:
        identity = f"rollout-{self.folder.name}-{iteration + 1}-{number}"
        session = hashlib.sha256(identity.encode()).digest()[:16]
        context = dataclasses.replace(self.context, session_hash=session, store=False)
        return completions.Assignment(identity, context, completions.Exposure("", "", None, 0.0, randomised=False))

    def _drawn(
        self, prompt: rollouts.EncodedPrompt, completion: completions.Completion, staleness: int | None, samples: int
    ) -> list[rollouts.Drawn]:
        """The answers of one completion, or `samples` times why they cannot be used."""
        if staleness is None:
            return _refused("drawn by a policy that is none of this run's", samples)
        if staleness > self.max_staleness:
            return _refused(f"drawn by weights more than {self.max_staleness} iterations old", samples)
        if completion.prompt_token_ids != prompt.tokens:
            return _refused("the policy process reads the prompt as other tokens", samples)
        if len(completion.responses) != samples:
            return _refused("the policy process gave another number of answers", samples)
        return [_answer(response, staleness, completion.loaded_digest) for response in completion.responses]


def _refused(reason: str, samples: int) -> list[rollouts.Drawn]:
    return [rollouts.Drawn("", (), (), ended=False, refused=reason)] * samples


def _answer(response: completions.Response, staleness: int, digest: str) -> rollouts.Drawn:
    if response.finish_reason is completions.FinishReason.CANCELLED:
        return rollouts.Drawn("", (), (), ended=False, refused="cancelled by the policy process")
    return rollouts.Drawn(
        text=response.text.read(),
        token_ids=response.token_ids,
        logprobs=response.logprobs_raw,
        ended=response.finish_reason is completions.FinishReason.STOP,
        staleness=staleness,
        digest=digest,
    )


def _read(path: pathlib.Path) -> list[rollouts.Drawn]:
    try:
        return [
            rollouts.Drawn(**{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])})
            for row in elsewhere.read(path)
        ]
    except (TypeError, KeyError) as problem:
        raise elsewhere.unreadable(path, problem) from problem
