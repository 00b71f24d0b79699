"""The pulse of a service and `eventplat health SERVICE`: well while it is young, and not before or after."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventplat.cli.health import command
from eventplat.observability.pulse import Pulse, pulse_path
from eventplat.testing.virtual_clock import VirtualClock


def asked(folder: Path, service: str = "stock") -> Result:
    return CliRunner().invoke(command, [service], env={"EVENTPLAT_DATA_DIR": str(folder), "EVENTPLAT_PROCESS_TERM_S": "6"})


def test_a_service_that_was_never_well_is_not_well(tmp_path: Path) -> None:
    result = asked(tmp_path)

    assert (result.exit_code, result.output) == (1, "stock is not well: it has not been well yet\n")


@pytest.mark.parametrize(("age", "code", "said"), [(1, 0, "stock is well"), (60, 1, "stock is not well: it was well 60 s ago")])
def test_a_pulse_is_good_for_a_process_term(age: int, code: int, said: str, tmp_path: Path) -> None:
    path = pulse_path(tmp_path, "stock")
    path.touch()
    os.utime(path, (time.time() - age,) * 2)

    result = asked(tmp_path)

    assert (result.exit_code, result.output.strip()) == (code, said)


def test_the_pulse_beats_only_while_the_service_is_well_and_ends_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        clock, wells, path = VirtualClock(), [False], pulse_path(tmp_path, "stock")
        pulse = Pulse(path, lambda: wells[0], every_s=2, clock=clock)
        await pulse.start()
        for _ in range(5):  # its first turn
            await asyncio.sleep(0)
        await clock.advance(5)
        assert asked(tmp_path).exit_code == 1
        wells[0] = True
        await clock.advance(2)
        assert asked(tmp_path).exit_code == 0
        path.unlink()
        wells[0] = False
        await clock.advance(5)
        assert not path.exists()
        wells[0] = True
        await clock.advance(2)
        await pulse.stop()
        assert not path.exists()

    asyncio.run(run())
