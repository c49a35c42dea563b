"""Every error has a status over HTTP, and one shape."""

from trimtab.core import errors
from trimtab.gateway import errors as gateway_errors


def all_errors(kind: type[errors.TrimtabError] = errors.TrimtabError) -> set[type[errors.TrimtabError]]:
    return {sub for direct in kind.__subclasses__() for sub in (direct, *all_errors(direct))}


def test_every_error_class_has_its_row() -> None:
    known = {kind for kind in all_errors() if kind.__module__ in {errors.__name__, gateway_errors.__name__}}
    assert set(gateway_errors.TABLE) == known


def test_the_error_object_is_openais_and_names_the_field() -> None:
    status, headers, body = gateway_errors.answer_to(errors.UnsupportedParameter("tools", "there are none"))
    assert (status, headers) == (400, {})
    assert body == {
        "error": {
            "message": "`tools` cannot be honoured: there are none. Leave it out.",
            "type": "invalid_request_error",
            "param": "tools",
            "code": "unsupported_parameter",
        }
    }


def test_errors_that_pass_say_when_to_try_again() -> None:
    for problem, status in (
        (errors.Overloaded("x"), 429),
        (errors.ServiceUnavailable("x"), 503),
        (errors.LogUnavailable("x"), 503),
    ):
        assert gateway_errors.answer_to(problem)[:2] == (status, {"retry-after": "1"})


def test_an_error_of_a_later_version_is_ours_to_answer_for() -> None:
    assert gateway_errors.answer_to(errors.TrimtabError("x"))[0] == 500
