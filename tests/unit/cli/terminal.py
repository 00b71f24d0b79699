"""The command line as a user meets it: what stands in the terminal, and the exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from eventplat.cli.main import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


class Terminal:
    """Types `eventplat …` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def type(self, *words: str) -> Said:
        """What came of it; anything but an exit is a traceback, and fails the test."""
        self._monkeypatch.setattr(sys, "argv", ["eventplat", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        said = self._capsys.readouterr()
        return Said(code, said.out, said.err)
