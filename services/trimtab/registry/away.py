"""A registry's file system on another machine: what fails of it is said as one thing. Used by `registry.store`."""

import functools
from collections.abc import Callable
from typing import Any

from trimtab.core import errors


class Elsewhere:
    """Any fsspec file system, call by call. What is not there is FileNotFoundError, as everywhere; for all else each
    has classes of its own, and here it is ServiceUnavailable. url: of the registry."""

    def __init__(self, files: Any, url: str) -> None:
        self._files = files
        self._url = url

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self._files, name)

        @functools.wraps(act)
        def asked(*arguments: Any, **options: Any) -> Any:
            try:
                return act(*arguments, **options)
            except FileNotFoundError:
                raise
            except Exception as problem:
                raise errors.ServiceUnavailable(
                    f"The registry at {self._url} cannot be reached ({type(problem).__name__}: {problem}); see that it "
                    "is there, and that this process may use it."
                ) from problem

        return asked
