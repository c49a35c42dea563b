"""`trimtab feedback judge`: asks a judge about answers and sends what it says as feedback of its own."""

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Awaitable, Sequence

import httpx

import trimtab_client
from trimtab.cli import show
from trimtab.cli.feedback.rlaif import comments, judges, pairs, questions, texts, verdicts
from trimtab.cli.machine import artifacts, platform, public
from trimtab.core import errors, feedback
from trimtab.wire import calls
from trimtab_client import errors as client_errors
from trimtab_client import feedback as feedback_details

SURFACE = "judge"
_TIMEOUT_S = 120.0
_REFUSALS = (client_errors.InvalidField, client_errors.ForgedCompletionId, client_errors.NotAllowed)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What the command was given. url and model of an endpoint, or reward: the beginning of a reward model's id.

    critiques: what people wrote is read, and no pair compared.
    """

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
    critiques: bool = False


Case = pairs.Pair | texts.TextPair | comments.Commented


@dataclasses.dataclass(frozen=True, slots=True)
class Rating:
    """Who is asked, under which name, and where what he says goes: all through the public door."""

    who: judges.Judge
    rater: str
    criterion: str
    client: trimtab_client.AsyncTrimtab
    imports: calls.FeedbackCalls
    line: str


async def judge(state: pathlib.Path, asked: Asked, as_json: bool) -> None:
    """Collects what there is to judge, asks about each in both orders, sends the verdicts, prints the books."""
    if bool(asked.reward) == bool(asked.url):
        raise errors.InvalidField("--url", "and --reward name who judges", "give one of the two")
    if asked.url and not asked.model:
        raise errors.InvalidField("--model", "is missing", "name the model that the endpoint is to ask")
    if asked.reward and asked.critiques:
        raise errors.InvalidField("--critiques", "is for a model that reads", "name it with --url and --model")
    wanted = [pairs.Wanted("ANSWER", one) for one in asked.completions]
    of_file, left_out = pairs.read_file(asked.file) if asked.file else ([], 0)
    wanted += of_file
    if not wanted:
        raise errors.InvalidField("COMPLETION", "is missing", "name completions, or give --file")
    layout = platform.Layout(state)
    screen = show.Screen(as_json)
    if left_out:
        screen.say(f"  left out {left_out:,}: their dialogues differ before the assistant's last turn")
    async with platform.doors(layout) as doors, _judge(layout, doors, asked) as who:
        rater = who.reader if asked.critiques and isinstance(who, judges.Endpoint) else who.rater
        with screen.step(f"looking up {len(wanted):,} completions or pairs"):
            found = await _cases(doors, wanted, rater, asked)
        async with public.async_client(layout) as client, public.feedback_calls(layout) as imports:
            rating = Rating(who, rater, asked.criterion, client, imports, doors.facts.line)
            every = await _verdicts(found, rating, asked.at_once, screen)
    books = verdicts.Books.of(every)
    if as_json:
        document = {"rater": rater, "criterion": asked.criterion, **books.document(), "left_out": left_out}
        screen.json({"answers": document.pop("pairs"), **document} if asked.critiques else document)
        return
    _show(screen, rater, books, every, "answers" if asked.critiques else "pairs")


async def _cases(doors: platform.Doors, wanted: Sequence[pairs.Wanted], rater: str, asked: Asked) -> Sequence[Case]:
    if asked.critiques:
        return await comments.collect(doors, wanted)
    known = await pairs.collect(doors, [one for one in wanted if one.plain is None])
    plain = [one.plain for one in wanted if one.plain is not None]
    return [*known, *await texts.collect(doors, plain, rater, asked.criterion)]


@contextlib.asynccontextmanager
async def _judge(layout: platform.Layout, doors: platform.Doors, asked: Asked) -> AsyncIterator[judges.Judge]:
    if asked.reward:
        yield judges.RewardService(doors, artifacts.resolve(layout, asked.reward))
        return
    headers = {"authorization": f"Bearer {asked.api_key}"} if asked.api_key else {}
    async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S) as client:
        yield judges.Endpoint(client, asked.url, asked.model, asked.guideline or questions.GUIDELINE, asked.limit)


async def _verdicts(found: Sequence[Case], rating: Rating, at_once: int, screen: show.Screen) -> list[verdicts.Judged]:
    """One for each case. The first problem that is not one case's own ends all; what was sent is sent."""
    free = asyncio.Semaphore(at_once)
    done = 0
    with screen.step(f"asking {rating.rater} about {len(found):,}, each in both orders") as step:

        async def one(case: Case) -> verdicts.Judged:
            nonlocal done
            async with free:
                judged = await _verdict(case, rating)
            done += 1
            step.say(f"{done:,} done")
            return judged

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(case)) for case in found]
        except ExceptionGroup as problems:  # one of them says why; the others were ended with it
            raise problems.exceptions[0] from problems
    return [task.result() for task in tasks]


async def _verdict(case: Case, rating: Rating) -> verdicts.Judged:
    feedback_id = case.feedback_id(rating.rater, rating.criterion)
    if feedback_id in case.given:
        return verdicts.Judged(verdicts.Outcome.KNOWN, people=case.people)
    if isinstance(case, comments.Commented):
        return await _read(case, rating, feedback_id)
    reply = await rating.who.compare(case.prompt, *case.shown)
    preference, problem = verdicts.agreed(reply.in_order, reply.turned_back)
    judged = verdicts.Judged(problem or verdicts.Outcome.SENT, preference, case.people, reply.shortened)
    if preference is None:
        return judged
    if isinstance(case, texts.TextPair):
        return await _imported(case.texts.verdict(preference, feedback_id), case.texts.source, rating, judged)
    first, second = ((ref.completion_id, ref.choice) for ref in case.refs)
    better, worse = (second, first) if preference is questions.Preference.SECOND else (first, second)
    tie = preference is questions.Preference.TIE
    return await _sent(rating.client.feedback.compare(better, worse, tie=tie, **_said(rating, feedback_id)), judged)


async def _read(case: comments.Commented, rating: Rating, feedback_id: str) -> verdicts.Judged:
    """A thumb of what the comments on an answer say, each read by itself; it names those that said it."""
    if not isinstance(rating.who, judges.Endpoint):
        raise TypeError("a reward model reads no comments")
    replies = [await rating.who.read(case.prompt, case.answer, one.words, one.part) for one in case.comments]
    of_each = [verdicts.agreed(reply.in_order, reply.turned_back) for reply in replies]
    opinion, problem = verdicts.of_comments(of_each)
    shortened = any(reply.shortened for reply in replies)
    judged = verdicts.Judged(problem or verdicts.Outcome.SENT, opinion, case.people, shortened)
    if opinion is None:
        return judged
    read_from = [comment.id for comment, (said, _) in zip(case.comments, of_each, strict=True) if said is opinion]
    said: feedback_details.Details = {**_said(rating, feedback_id), "read_from": read_from}
    up = opinion is questions.Opinion.GOOD
    return await _sent(rating.client.feedback.thumb((case.ref.completion_id, case.ref.choice), up=up, **said), judged)


def _said(rating: Rating, feedback_id: str) -> feedback_details.Details:
    """Who says it, where, and of what."""
    return {
        "id": feedback_id,
        "rater": rating.rater,
        "rater_kind": "model",
        "surface": SURFACE,
        "criterion": rating.criterion,
    }


async def _sent(sending: Awaitable[trimtab_client.Receipt], judged: verdicts.Judged) -> verdicts.Judged:
    try:
        await sending
    except client_errors.ConflictingFeedback as earlier:
        return dataclasses.replace(judged, outcome=verdicts.Outcome.CONFLICT, why=str(earlier))
    except _REFUSALS as problem_of_it:
        return dataclasses.replace(judged, outcome=verdicts.Outcome.REFUSED, why=str(problem_of_it))
    except trimtab_client.TrimtabError as away:
        raise public.core_error(away) from away
    return judged


async def _imported(
    item: feedback.ImportedPreference, source: str, rating: Rating, judged: verdicts.Judged
) -> verdicts.Judged:
    """The texts with the verdict on them."""
    rater = feedback.Rater(feedback.RaterKind.MODEL, rating.rater)
    request = feedback.ImportPreferencesRequest(
        "", rating.line, source, (item,), rater=rater, criterion=rating.criterion
    )
    answer = await platform.patiently(lambda: rating.imports.import_preferences(request, timeout_s=60))
    if not answer.refused:
        return judged
    refusal = answer.refused[0].refusal
    conflict = refusal.reason == errors.reason_of(errors.ConflictingFeedback)
    outcome = verdicts.Outcome.CONFLICT if conflict else verdicts.Outcome.REFUSED
    return dataclasses.replace(judged, outcome=outcome, why=refusal.message)


def _show(screen: show.Screen, rater: str, books: verdicts.Books, every: Sequence[verdicts.Judged], what: str) -> None:
    in_words = f"{books.judged:,}" if what == "answers" else f"{books.judged:,}, {books.ties:,} of them ties"
    contradicts = "contradictory comments, or another answer in the other order"
    rows = [
        ("answers with comments" if what == "answers" else "pairs", f"{books.pairs:,}"),
        ("judged before", f"{books.known:,}"),
        ("judged", in_words),
        (contradicts if what == "answers" else "another answer in the other order", f"{books.inconsistent:,}"),
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
