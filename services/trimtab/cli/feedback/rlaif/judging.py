"""`trimtab feedback judge`: asks a judge about pairs of answers and sends what it says as feedback of its own."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Sequence

import httpx

import trimtab_client
from trimtab.cli import show
from trimtab.cli.feedback.rlaif import judges, pairs, questions, verdicts
from trimtab.cli.machine import operating, platform, public
from trimtab.core import errors
from trimtab_client import errors as client_errors

SURFACE = "judge"
_TIMEOUT_S = 120.0
_REFUSALS = (client_errors.InvalidField, client_errors.ForgedCompletionId, client_errors.NotAllowed)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What the command was given. url and model of an endpoint, or reward: the beginning of a reward model's id."""

    completions: Sequence[str]
    file: pathlib.Path | None
    url: str
    model: str
    api_key: str
    reward: str
    criterion: str
    guideline: str
    limit: int
    at_once: int


async def judge(state: pathlib.Path, asked: Asked, as_json: bool) -> None:
    """Collects the pairs, judges each in both orders, sends the verdicts, prints the books."""
    if bool(asked.reward) == bool(asked.url):
        raise errors.InvalidField("--url", "and --reward name who judges", "give one of the two")
    if asked.url and not asked.model:
        raise errors.InvalidField("--model", "is missing", "name the model that the endpoint is to ask")
    wanted = [pairs.Wanted("ANSWER", one) for one in asked.completions]
    wanted += pairs.read_file(asked.file) if asked.file else []
    if not wanted:
        raise errors.InvalidField("COMPLETION", "is missing", "name completions, or give --file")
    layout = platform.Layout(state)
    screen = show.Screen(as_json)
    async with platform.doors(layout) as doors, _judge(layout, doors, asked) as who:
        with screen.step(f"looking up {len(wanted):,} completions or pairs"):
            found = await pairs.collect(doors, wanted)
        async with public.async_client(layout) as client:
            every = await _verdicts(found, who, client, asked, screen)
    books = verdicts.Books.of(every)
    if as_json:
        screen.json({"rater": who.rater, "criterion": asked.criterion, **books.document()})
        return
    _show(screen, who.rater, books, every)


@contextlib.asynccontextmanager
async def _judge(layout: platform.Layout, doors: platform.Doors, asked: Asked) -> AsyncIterator[judges.Judge]:
    if asked.reward:
        yield judges.RewardService(doors, operating.resolve(layout, asked.reward))
        return
    headers = {"authorization": f"Bearer {asked.api_key}"} if asked.api_key else {}
    async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S) as client:
        yield judges.Endpoint(client, asked.url, asked.model, asked.guideline or questions.GUIDELINE, asked.limit)


async def _verdicts(
    found: Sequence[pairs.Pair],
    who: judges.Judge,
    client: trimtab_client.AsyncTrimtab,
    asked: Asked,
    screen: show.Screen,
) -> list[verdicts.Judged]:
    """One for each pair. The first problem that is not one pair's own ends all; what was sent is sent."""
    free = asyncio.Semaphore(asked.at_once)
    done = 0
    with screen.step(f"asking {who.rater} about {len(found):,} pairs, each in both orders") as step:

        async def one(pair: pairs.Pair) -> verdicts.Judged:
            nonlocal done
            async with free:
                judged = await _verdict(pair, who, client, asked.criterion)
            done += 1
            step.say(f"{done:,} done")
            return judged

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(pair)) for pair in found]
        except ExceptionGroup as problems:  # one of them says why; the others were ended with it
            raise problems.exceptions[0] from problems
    return [task.result() for task in tasks]


async def _verdict(
    pair: pairs.Pair, who: judges.Judge, client: trimtab_client.AsyncTrimtab, criterion: str
) -> verdicts.Judged:
    feedback_id = pair.feedback_id(who.rater, criterion)
    if feedback_id in pair.given:
        return verdicts.Judged(verdicts.Outcome.KNOWN, people=pair.people)
    reply = await who.compare(pair.prompt, *pair.shown)
    preference, problem = verdicts.agreed(reply.in_order, reply.turned_back)
    judged = verdicts.Judged(problem or verdicts.Outcome.SENT, preference, pair.people, reply.shortened)
    if preference is None:
        return judged
    first, second = ((ref.completion_id, ref.choice) for ref in pair.refs)
    better, worse = (second, first) if preference is questions.Preference.SECOND else (first, second)
    try:
        await client.feedback.compare(
            better,
            worse,
            tie=preference is questions.Preference.TIE,
            id=feedback_id,
            rater=who.rater,
            rater_kind="model",
            surface=SURFACE,
            criterion=criterion,
        )
    except client_errors.ConflictingFeedback as earlier:
        return dataclasses.replace(judged, outcome=verdicts.Outcome.CONFLICT, why=str(earlier))
    except _REFUSALS as problem_of_it:
        return dataclasses.replace(judged, outcome=verdicts.Outcome.REFUSED, why=str(problem_of_it))
    except trimtab_client.TrimtabError as away:
        raise public.core_error(away) from away
    return judged


def _show(screen: show.Screen, rater: str, books: verdicts.Books, every: Sequence[verdicts.Judged]) -> None:
    rows = [
        ("pairs", f"{books.pairs:,}"),
        ("judged before", f"{books.known:,}"),
        ("judged", f"{books.judged:,}, {books.ties:,} of them ties"),
        ("another answer in the other order", f"{books.inconsistent:,}"),
        ("unreadable", f"{books.unreadable:,}"),
        ("sent", f"{books.sent:,}"),
        ("same verdict in both orders", books.consistency.in_words()),
        ("agrees with people", books.agreement_with_people.in_words()),
    ]
    rows += [("texts cut to length", f"{books.shortened:,}")] if books.shortened else []
    rows += [("another verdict sent before, which stands", f"{books.conflicts:,}")] if books.conflicts else []
    rows += [("refused", f"{books.refused:,}")] if books.refused else []
    screen.say(f"\nrater {show.literal(rater)}\n")
    screen.table(("", ""), rows)
    for why in dict.fromkeys(one.why for one in every if one.outcome is verdicts.Outcome.REFUSED):
        screen.say(f"  refused: {show.literal(why)}")
