"""What a process loads: each one pays for it in memory and in the time of its start."""

from __future__ import annotations

import subprocess
import sys


def test_a_service_without_http_does_not_load_fastapi() -> None:
    code = "import sys, eventplat.process, eventplat.service.load; print(sorted({'fastapi', 'uvicorn', 'starlette'} & sys.modules.keys()))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
