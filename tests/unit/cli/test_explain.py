"""`eventplat explain`: each code that a user can meet, and what to do. Every code: tests/unit/test_errors.py."""

from __future__ import annotations

import pytest

from tests.unit.cli.terminal import Terminal


def test_a_code_is_explained_with_the_next_move(terminal: Terminal) -> None:
    said = terminal.type("explain", "EP203")

    assert (said.code, said.err) == (0, "")
    assert said.out == (
        "EP203  TopologyMissing\n\nAn exchange or queue that this process needs is not there.\n\n"
        "Run `eventplat topology apply` before the processes of this release start.\n"
    )


@pytest.mark.parametrize("code", ["EP999", "EP816", "EP901", "ep203"])
def test_a_code_is_known_wherever_its_error_stands_and_however_it_is_typed(code: str, terminal: Terminal) -> None:
    said = terminal.type("explain", code)

    assert said.code == 0
    assert said.out.startswith(f"{code.upper()}  ")


@pytest.mark.parametrize("code", ["EP000000", "nonsense", "", "101", "EP101 "])
def test_a_code_that_is_none_is_said_to_be_none(code: str, terminal: Terminal) -> None:
    said = terminal.type("explain", code)

    assert said.code == 1
    assert said.err == f"Error: no error has the code {code!r}; codes look like EP101\n"
