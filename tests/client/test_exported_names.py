"""The client's surface is what is listed here; a new name is a decision."""

import subprocess
import sys

import trimtab_client


def test_the_exported_names():
    assert sorted(trimtab_client.__all__) == [
        "Answer",
        "AsyncTrimtab",
        "Choice",
        "Piece",
        "Receipt",
        "Trimtab",
        "TrimtabError",
        "connect",
        "errors",
        "from_rpc",
    ]
    assert all(hasattr(trimtab_client, name) for name in trimtab_client.__all__)


def test_both_clients_have_the_same_methods():
    def methods(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(trimtab_client.Trimtab) == methods(trimtab_client.AsyncTrimtab) == {"chat", "stream", "close"}


def test_the_errors():
    kinds = {
        name
        for name, value in vars(trimtab_client.errors).items()
        if isinstance(value, type) and issubclass(value, trimtab_client.TrimtabError)
    }
    assert kinds == {
        "ArtifactCorrupt",
        "ConflictingFeedback",
        "DeadlineExceeded",
        "ForeignTenant",
        "ForgedCompletionId",
        "InternalFault",
        "InvalidField",
        "LogUnavailable",
        "MalformedRecord",
        "NotAllowed",
        "NotAuthenticated",
        "NotBuiltYet",
        "NotFound",
        "Overloaded",
        "PromptTooLong",
        "SealedText",
        "ServiceUnavailable",
        "StaleGeneration",
        "TrimtabError",
        "UnknownModel",
        "UnsupportedParameter",
        "WrongState",
    }
    assert kinds - {"TrimtabError"} == {kind.__name__ for kind in trimtab_client.errors.BY_REASON.values()}


def test_it_imports_no_service_and_nothing_heavy():
    script = "import sys, trimtab_client; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"trimtab", "torch", "transformers", "pydantic", "structlog", "numpy"} & set(done.stdout.split())
