"""The client on a whole platform: what an app relies on, the README as it stands, and the example apps."""

import asyncio
import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests import timing
from tests.client import living

import trimtab_client
from trimtab.core import errors as core_errors
from trimtab.core import feedback, text
from trimtab_client import errors

CLIENT = pathlib.Path(__file__).parents[2] / "clients" / "python"
QUESTION = "Why is the sky blue?"
# Everything that `trimtab-client` needs, as it lies in a folder of packages.
NEEDED = ("google", "grpc", "typing_extensions.py", "trimtabapi", "trimtab_client")


@pytest.fixture(scope="module")
def trimtab(platform: living.Up) -> Iterator[trimtab_client.Trimtab]:
    with trimtab_client.Trimtab(platform.address(), api_key=platform.api_key(), line=living.LINE) as client:
        yield client


def test_an_answer_in_pieces_is_the_answer_at_once(trimtab: trimtab_client.Trimtab) -> None:
    at_once = trimtab.chat(QUESTION, session="u-17")
    pieces = list(trimtab.stream([{"role": "user", "content": QUESTION}], session="u-17"))
    streamed = pieces[-1].answer
    assert streamed is not None
    assert "".join(piece.text for piece in pieces) == streamed.text == at_once.text != ""
    assert {piece.answer_id for piece in pieces} == {streamed.id} != {at_once.id}
    assert (streamed.policy_id, streamed.choices[0].finish_reason) == (at_once.policy_id, "length")
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (at_once.prompt_tokens, 16)


def test_feedback_on_what_was_answered_is_joined_with_it(platform: living.Up, trimtab: trimtab_client.Trimtab) -> None:
    answer = trimtab.chat(QUESTION, session="u-17", n=2)
    better, worse = answer.choices
    thumb = trimtab.feedback.thumb(worse, up=False, surface="chat")
    joined = platform.joined(thumb.id)[thumb.id]
    assert joined.kind == feedback.Thumb(text.ResponseRef(answer.id, 1), up=False)
    assert (joined.surface, joined.rater, joined.verified) == ("chat", feedback.Rater(), True)
    compared = trimtab.feedback.compare(better, (answer.id, 1), strength=0.5)
    sides = text.ResponseRef(answer.id, 0), text.ResponseRef(answer.id, 1)
    assert platform.joined(compared.id)[compared.id].kind == feedback.Comparison(*sides, strength=0.5)


def test_every_kind_becomes_an_example_and_is_taken_back_by_its_receipt(
    platform: living.Up, trimtab: trimtab_client.Trimtab
) -> None:
    answer = trimtab.chat(QUESTION, session="u-18", n=2)
    first, second = answer.choices
    give = trimtab.feedback
    receipts = {
        "ThumbExample": give.thumb(first, up=True),
        "RatingExample": give.rate(first, stars=4),
        "PairExample": give.compare(first, second, tie=True),
        "RankingExample": give.rank([second, first]),
        "EditExample": give.edit(first, "So."),
        "DemonstrationExample": give.demonstrate(QUESTION, "So."),
        "CritiqueExample": give.critique(first, "Long.", span=(0, 1)),
        "SignalExample": give.signal(first, "copy"),
    }

    def examples(receipt: trimtab_client.Receipt) -> list[str]:
        """What became of it: its kind, or "NoneType" once it was taken back."""
        try:
            return [type(example.kind).__name__ for example in platform.trace(receipt.id).examples]
        except core_errors.NotFound:  # the ledger has yet to read it
            return []

    for kind, receipt in receipts.items():
        timing.until(lambda kind=kind, receipt=receipt: examples(receipt) == [kind], kind)
        give.retract(receipt)
    for kind, receipt in receipts.items():
        timing.until(lambda receipt=receipt: examples(receipt) == ["NoneType"], f"{kind} taken back")


def test_asyncio_says_the_same_with_a_client_made_before_its_loop(
    platform: living.Up, trimtab: trimtab_client.Trimtab
) -> None:
    client = trimtab_client.AsyncTrimtab(platform.address(), api_key=platform.api_key(), line=living.LINE)

    async def use() -> tuple[trimtab_client.Answer, trimtab_client.Receipt, list[trimtab_client.Piece]]:
        async with client:
            answer = await client.chat(QUESTION)
            pieces = [piece async for piece in client.stream(QUESTION)]
            return answer, await client.feedback.thumb(answer, up=True), pieces

    answer, receipt, pieces = asyncio.run(use())
    assert answer.text == "".join(piece.text for piece in pieces) == trimtab.chat(QUESTION).text
    assert platform.joined(receipt.id)[receipt.id].kind == feedback.Thumb(text.ResponseRef(answer.id), up=True)


def test_the_same_id_with_another_body_is_a_conflict(trimtab: trimtab_client.Trimtab) -> None:
    answer, click = trimtab.chat(QUESTION), f"click-{uuid.uuid4()}"
    given = [trimtab.feedback.thumb(answer, up=True, id=click) for _ in range(2)]
    assert [receipt.duplicate for receipt in given] == [False, True]
    with pytest.raises(errors.ConflictingFeedback):
        trimtab.feedback.thumb(answer, up=False, id=click)


def test_a_vote_given_while_the_feedback_service_is_down_counts_once(
    platform: living.Up, trimtab: trimtab_client.Trimtab
) -> None:
    answer = trimtab.chat(QUESTION)
    before = platform.kill("feedback")
    receipt = trimtab.feedback.thumb(answer, up=True)
    assert platform.restarts("feedback") == before + 1
    assert list(platform.joined(answer.id)) == [receipt.id]


def test_the_readme_runs_as_it_stands(platform: living.Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in platform.environment().items():
        monkeypatch.setenv(name, value)
    readme = (CLIENT / "README.md").read_text()
    names: dict[str, Any] = {}
    said = []
    for block in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(block, "README.md", "exec"), names)
        said.append(output.getvalue())
    asked, conversed, streamed, voted, failed, gathered = said
    answer, two = names["answer"], names["two"]
    assert asked == f"{answer.text}\n{answer.id} {answer.policy_id}\n"
    assert conversed == "".join(f"{one.index} {one.finish_reason} {one.text}\n" for one in two.choices)
    assert re.fullmatch(rf"{re.escape(answer.text)}\n16 tokens, chatcmpl-\S+\n", streamed)
    assert voted.strip() in platform.joined(answer.id)
    assert [type(said.kind) for said in platform.joined(two.id).values()] == [feedback.Comparison]
    assert "'no-such-line' is not served" in failed
    assert failed.endswith("FORGED_COMPLETION_ID completion_id None\n")
    [compared] = re.findall(r"^Receipt\(id='(\S+)'", gathered)
    assert isinstance(platform.joined(compared)[compared].kind, feedback.Comparison)
    names["trimtab"].close()


@pytest.mark.parametrize("name", ["terminal.py", "terminal_openai.py"])
def test_an_app_in_twenty_lines(platform: living.Up, name: str) -> None:
    app = CLIENT / "examples" / name
    assert len(app.read_text().splitlines()) <= 20
    typed = f"{QUESTION}\ny\nAnd then?\nn\nReally?\n\n\n"
    ended = subprocess.run(
        (sys.executable, str(app)),
        input=typed,
        env=os.environ | platform.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    receipts = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", ended.stdout)
    kinds = [platform.joined(receipt)[receipt].kind for receipt in receipts]
    assert [kind.up for kind in kinds if isinstance(kind, feedback.Thumb)] == [True, False]


ALONE = f"""
import os
from trimtab_client import Trimtab
with Trimtab(os.environ["TRIMTAB_ADDRESS"], api_key=os.environ["TRIMTAB_API_KEY"], line="main") as trimtab:
    answer = trimtab.chat({QUESTION!r})
    print(trimtab.feedback.thumb(answer, up=True).id)
"""


def test_it_works_where_nothing_but_what_it_needs_is_installed(platform: living.Up, tmp_path: pathlib.Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in NEEDED:
        [found] = {place for folder in sys.path if (place := pathlib.Path(folder) / name).exists()}
        (packages / name).symlink_to(found)
    # -I: nothing of this folder or its user; -S: no installed packages
    ended = subprocess.run(
        (sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(packages)!r})\n{ALONE}"),
        env=platform.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert platform.joined(ended.stdout.strip())
