"""The page of a run: whole, safe, and in need of nothing but itself."""

import datetime
import html.parser
import json
import pathlib
import re

from trimtab.cli import show
from trimtab.cli.models import recorded, reporting
from trimtab.core import models, runs, text
from trimtab.trainer.judging import symptoms

NOON = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
EVIL = "</td><script>alert('x')</script>&"
VOID = {"meta"}


class Reader(html.parser.HTMLParser):
    """Fails on a tag that is not closed in order; keeps tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def read(page: reporting.Page) -> Reader:
    reader = Reader()
    reader.feed(reporting.written(page))
    reader.close()
    assert reader.open == []
    return reader


def page() -> reporting.Page:
    spec = runs.RunSpec("local", "main", runs.RunKind.PPO, label=EVIL, seed=7)
    figures = (runs.RunFigure("win_rate", 0.75), runs.RunFigure("kl_nats", 3.0625))
    run = runs.Run(
        "run-1", spec, runs.RunState.SUCCEEDED, NOON, NOON, NOON + datetime.timedelta(seconds=250), figures=figures
    )
    gates = (
        models.GateFigure("win_rate", 0.75, 0.5, True, "at least 0.5: share"),
        models.GateFigure("kl_to_anchor", 41.0, 40.0, False, f"at most 40 {EVIL}"),
    )
    context = text.Context("local", "main")
    model = models.PublishedModel("p" * 64, context, models.ModelKind.POLICY, NOON, gates=gates, passed=False)
    steps = [
        {"phase": "training", "step": step, "figures": {"score": step / 10, "kl_nats": step / 5, "odd_figure": 1.0}}
        for step in range(1, 19)
    ]
    return reporting.Page(
        run=run,
        models=[model],
        inputs=[("weights from", "abc", "policy abc")],
        settings=[("lr", "0.1", "default 0.2")],
        steps=steps,
        samples=[reporting.Sample("user: Where?", f"Nowhere. {EVIL}", "In Sound.")],
        trees=[show.Twig("policy ppp", [show.Twig("made from", [show.Twig("base bbb")])])],
        findings=[symptoms.Finding("no learning", f"It stood still. {EVIL}", "It is so.", "Raise `lr`.", alarm=True)],
    )


def test_a_page_says_everything_and_is_well_formed() -> None:
    said = read(page()).words
    for words in (
        "ppo run run-1",
        "It stood still.",
        "4 min 10 s",
        "odd figure",
        "KL to the reference",
        "default 0.2",
        "base bbb",
        "In Sound.",
    ):
        assert words in said
    for heading in (
        "Gates",
        "Over the steps",
        "Answers to held-out prompts",
        "Figures",
        "Inputs",
        "Settings",
        "Lineage",
    ):
        assert heading in said
    assert re.search(r"kl to anchor\s*41\s*40\s*not passed", said)


def test_a_page_loads_nothing_and_runs_nothing_whatever_people_wrote() -> None:
    reader = read(page())
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    attributes = {name for _, given in reader.tags for name in given}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "href"}
    assert "url(" not in reporting.written(page())
    assert "@import" not in reporting.written(page())
    assert reader.words.count(EVIL) == 4


def test_each_figure_of_the_steps_has_its_chart_in_the_order_people_look() -> None:
    charts = [given["aria-label"] for tag, given in read(page()).tags if tag == "svg"]
    assert charts == [
        "Reward of the answers, the reward model's units",
        "KL to the reference, nats per answer",
        "odd figure",
    ]
    circles = [given for tag, given in read(page()).tags if tag == "circle"]
    assert len(circles) == 3 * 18


def test_what_a_run_has_not_is_left_out() -> None:
    whole = page()
    bare = reporting.Page(whole.run, [], [], [], [], [], [])
    said = read(bare).words
    assert "Figures" in said
    for heading in ("Gates", "Diagnosis", "Over the steps", "Answers", "Inputs", "Lineage"):
        assert heading not in said


def test_steps_are_read_as_told_and_a_torn_one_is_left_out(tmp_path: pathlib.Path) -> None:
    rows = [{"phase": "a", "step": number, "figures": {"loss": 0.5}} for number in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"phase": "a", "st')
    assert recorded.steps(tmp_path) == rows
    assert recorded.steps(tmp_path / "gone") == []
