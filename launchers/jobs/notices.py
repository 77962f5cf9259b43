"""A filter of mpirun's own notices on standard error."""

from __future__ import annotations

import re
from typing import Final

_RULE: Final = re.compile(rb"[\0-]*-{70,}[\0-]*\s*")
_RULE_AND_TEXT: Final = re.compile(rb"\0*(-{70,})\0*([^-\0].*\n)")
_LAST_WORD_MARK: Final = b"\x1e"
_NOTICES: Final = (b"MPI_ABORT was invoked", b"prterun has exited", b"prterun detected", b"prterun noticed")


class NoticeFilter:
    """Holds back mpirun's framed notices in a stream of bytes; everything else passes at once.

    A notice is a rule of dashes, a known phrase, any lines, and a rule of dashes. Those that only say that a rank
    called abort are dropped: the rank has printed the reason before (see ``marl.launchers.mpi``).

    Args:
        last_word: a line that says that the work is done, and is not shown; it begins with the control character RS.

    Attributes:
        completed: whether it was said.
    """

    def __init__(self, last_word: str = "") -> None:
        self.completed = False
        self._last_word = last_word.encode()
        self._line = b""
        self._passing_line = False
        self._rule = b""
        self._inside = False
        self._after = False
        self._notice = b""
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Consumes bytes that were read and returns those to show now."""
        shown = b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            shown += self._end_line(line + b"\n")
        self._line = self._without_zeros(self._line + rest)
        # Half a line is shown as well (a prompt, a progress bar), unless it may become a rule or part of a notice.
        partly = self._line and not self._inside and not self._rule and _LAST_WORD_MARK not in self._line
        if partly and (self._passing_line or self._line.strip(b"\0-")):
            shown += self._line
            self._line = b""
            self._passing_line = True
        return shown

    def _end_line(self, end: bytes) -> bytes:
        line, self._line = self._without_zeros(self._line + end), b""
        if self._last_word and self._last_word in line:
            self.completed = True
            line = line.replace(self._last_word, b"")
            if not line.strip():
                return b""
        self._after = False
        if self._passing_line:
            self._passing_line = False
            return line
        if _RULE.fullmatch(line):
            if self._inside:
                self._close(line)
                # Two rules may come without a newline between them: one notice ends where the next begins.
                self._inside, self._rule = False, b"" if line.count(b"-") < 140 else b"\n"
                return b""
            before, self._rule = self._rule, line
            return before
        if self._inside:
            if found := _RULE_AND_TEXT.fullmatch(line):
                # A rank's own line may follow the rule without a newline between them.
                self._close(found.group(1) + b"\n")
                self._inside = False
                return found.group(2)
            self._notice += line
            return b""
        if self._rule and not line.strip():
            self._rule += line
            return b""
        before, self._rule = self._rule, b""
        if before and line.startswith(_NOTICES):
            self._inside = True
            self._notice = before + line
            return b""
        return before + line

    def _without_zeros(self, line: bytes) -> bytes:
        # Open MPI sends the zero byte that ends its notice along with it.
        return line.lstrip(b"\0") if self._after else line

    def _close(self, rule: bytes) -> None:
        if b"MPI_ABORT" not in self._notice and b'"abort"' not in self._notice:
            self._held += self._notice + rule
        self._notice = b""
        self._after = True

    def finish(self, *, show_notices: bool) -> bytes:
        """Returns the remaining bytes, with or without the notices."""
        if self._inside and _RULE.fullmatch(self._line):
            self._close(self._line.strip(b"\0") + b"\n")
            self._line = b""
        self._held += self._notice
        return (self._held if show_notices else b"") + self._rule + self._line

    @property
    def notices(self) -> bytes:
        """The notices that were held back, except those that only say that a rank called abort."""
        return self._held
