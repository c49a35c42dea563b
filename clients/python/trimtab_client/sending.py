"""One piece of feedback on its way: which attempts are made, and when. Pure but for the clock; `client` and `aio` call.

The feedback has its id before the first attempt, so that whatever became of an attempt, the next one counts nothing
twice.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping

from trimtab_client import errors
from trimtabapi.feedback.v1 import feedback_service_pb2

TIMEOUT_S = 30.0
# The gateway answers within 10 s whatever becomes of the log; one that has not by now is gone.
_ATTEMPT_S = 12.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_WORTH_ANOTHER = (errors.ServiceUnavailable, errors.LogUnavailable, errors.DeadlineExceeded)


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """The platform has the feedback, on disk. Feedback is amended and taken back by its receipt.

    answer_id: the answer it is about, the first of several. messages: of a demonstration, which is about no answer.
    duplicate: the platform had it already, from an earlier attempt or call under the same id; it counts once.
    """

    id: str
    answer_id: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    duplicate: bool = False


class Sending:
    """request: complete, with the feedback's id. receipt: what it will be worth. id_is_new: nobody else can have it."""

    def __init__(
        self,
        request: feedback_service_pb2.SendRequest,
        receipt: Receipt,
        timeout_s: float,
        *,
        id_is_new: bool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self._receipt = receipt
        self._id_is_new = id_is_new
        self._now = now
        self._deadline = now() + timeout_s
        self._failures = 0

    def attempt_s(self) -> float:
        """Seconds that the next attempt is given."""
        return min(_ATTEMPT_S, self._left_s())

    def acknowledged(self, response: feedback_service_pb2.SendResponse) -> Receipt:
        """The receipt of what the service acknowledged."""
        return dataclasses.replace(self._receipt, duplicate=response.duplicate)

    def after(self, failed: errors.TrimtabError) -> Receipt | float:
        """What to do after a failed attempt: wait so many seconds and try again, or hand out the receipt.

        Raises the error where another attempt cannot help, or does not fit into the time that is left.
        """
        self._failures += 1
        if isinstance(failed, errors.ConflictingFeedback) and self._failures > 1 and self._id_is_new:
            # an earlier attempt was taken in, and its acknowledgement lost
            return dataclasses.replace(self._receipt, duplicate=True)
        told_when = isinstance(failed, errors.Overloaded) and failed.retry_after_s is not None
        if not told_when and not isinstance(failed, _WORTH_ANOTHER):
            raise failed
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1))
        pause_s = max(random.uniform(longest / 2, longest), failed.retry_after_s or 0.0)
        if pause_s >= self._left_s():
            raise failed
        return pause_s

    def _left_s(self) -> float:
        return self._deadline - self._now()
