"""An error is rebuilt from its reason, sentence and details without being worded anew."""

import pytest

from trimtab.core import errors

EVERY = [
    errors.InvalidField("messages[0].content", "is empty", "say something"),
    errors.UnsupportedParameter("tools", "this engine has none"),
    errors.PromptTooLong(900, 512),
    errors.ForgedCompletionId("chatcmpl-x"),
    errors.ForeignTenant(),
    errors.UnknownModel("support2", ("support",)),
    errors.NotFound("run", "r1"),
    errors.NotAuthenticated(),
    errors.NotAllowed("Only an operator adopts a policy."),
    errors.ConflictingFeedback("fb-1"),
    errors.SealedText("key-1"),
    errors.LogUnavailable("The log did not take the record in 5 s; send it again."),
    errors.ServiceUnavailable("The policy is starting; try again."),
    errors.Overloaded("The queue is full; try again."),
    errors.DeadlineExceeded("The deadline passed."),
    errors.NotBuiltYet("Erase"),
    errors.WrongState("The release is paused; resume it first."),
    errors.StaleGeneration(3, 4),
    errors.ArtifactCorrupt("'w' is broken."),
    errors.MalformedRecord("It cannot be read."),
    errors.InternalFault("Score"),
]


def test_every_class_of_error_is_in_this_test():
    assert {type(error) for error in EVERY} == set(errors.TrimtabError.__subclasses__())


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_a_restored_error_is_the_same_class_sentence_and_details(error):
    restored = errors.restore(errors.reason_of(type(error)), str(error), error.details)
    assert type(restored) is type(error)
    assert (str(restored), restored.details) == (str(error), error.details)
    assert getattr(restored, "field", None) == getattr(error, "field", None)


def test_a_reason_of_a_newer_service_is_not_guessed():
    assert errors.restore("OUT_OF_PAPER", "No paper.", {}) is None


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_sentence_ends_like_one(error):
    assert str(error).endswith(".")
