"""Text that came sealed stays sealed, in whichever database: the ledger reads none of it, and passes it on as it is."""

import dataclasses

from tests.unit.ledger import making

from trimtab.core import completions, examples, feedback, text
from trimtab.core import ledger as core_ledger
from trimtab.ledger import scores, tracing

SEALED = text.Text(text.Ciphertext(b"\0\xff sealed", "key-1"))


def sealed(name: str) -> completions.Completion:
    open_one = making.completion(name, exposure=making.exposed(), texts=["an answer nobody may read"])
    return dataclasses.replace(
        open_one,
        prompt=(text.Message(text.Role.USER, SEALED),),
        responses=(dataclasses.replace(open_one.responses[0], text=SEALED),),
    )


def test_an_example_of_sealed_answers_is_sealed(ledger: making.Ledger) -> None:
    store = ledger
    answer = sealed("s")
    store.take(answer, making.event(feedback.Edit(making.ref(answer), SEALED), "edit", about=answer))
    [example] = store.newest().values()
    assert example.kind == examples.EditExample(SEALED, SEALED)
    assert [message.content for message in example.prompt] == [SEALED]
    shown = tracing.trace(store.store, core_ledger.TraceRequest(making.TENANT, "edit"))
    assert shown.completions == (answer,)
    assert scores.unscored(store.store, core_ledger.UnscoredRequest(making.TENANT, "rel", 10)).answers == ()


def test_feedback_on_what_nobody_agreed_to_keep_makes_no_example(ledger: making.Ledger) -> None:
    answer = making.completion(store=False)
    ledger.take(answer, making.thumb(answer))
    assert ledger.emitted() == []
    assert set(ledger.statuses().values()) == {"rejected no consent to keep the completion"}
