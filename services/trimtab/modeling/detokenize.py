"""Text of tokens while they arrive: nothing half-decoded, nothing that may become a stop string.

Used by `modeling.decoder` for requests that stream or have stop strings.
"""

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
# a character has at most 3 unfinished bytes, so at most 3 unfinished tokens; more than this many are no character
_PATIENCE = 8
_UNFINISHED = 3


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of a whole answer, without special tokens and without an unfinished character at its end."""
    text = _plain(tokenizer, token_ids)
    if not text.endswith(_REPLACEMENT):
        return text
    stream = TextStream(tokenizer, ())
    for token in token_ids:
        stream.push(token)
    return stream.text


def _plain(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


class TextStream:
    """Turns tokens into text that may be shown. `text` is everything shown so far."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        # tokens[anchor:settled] were shown whole: they give the decoder its left context
        self._anchor = 0
        self._settled = 0
        self._context = ""
        self._shown_of_window = 0
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token allows to be shown; sets `stopped` when a stop string is complete."""
        self._tokens.append(token)
        return self._release(self._decoded())

    def finish(self) -> str:
        """What was held back in case a stop string came."""
        shown, self._held = self._held, ""
        self.text += shown
        return shown

    def _decoded(self) -> str:
        window = _plain(self._tokenizer, self._tokens[self._anchor :])[len(self._context) :]
        whole = window.rstrip(_REPLACEMENT)
        if len(self._tokens) - self._settled > _PATIENCE:
            whole = window[: max(len(whole), len(window) - _UNFINISHED)]
        fresh = whole[self._shown_of_window :]
        self._shown_of_window = max(self._shown_of_window, len(whole))
        if whole == window and whole:
            self._anchor, self._settled = self._settled, len(self._tokens)
            self._context = _plain(self._tokenizer, self._tokens[self._anchor : self._settled])
            self._shown_of_window = 0
        return fresh

    def _release(self, fresh: str) -> str:
        self._held += fresh
        found = [position for stop in self._stop if (position := self._held.find(stop)) >= 0]
        if found:
            shown, self._held, self.stopped = self._held[: min(found)], "", True
        else:
            keep = self._possible_stop()
            shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.text += shown
        return shown

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
