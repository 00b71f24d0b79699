"""Brokers: the transport suite and a short messages campaign on RabbitMQ of other versions. `make campaign-brokers`.

    python -m tests.faults.brokers [rabbitmq:4-management rabbitmq:4.3-management]

Each image runs with every deprecated feature denied that it knows: what eventplat uses, it may use tomorrow too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.container import RabbitContainer
from tests.faults.messages import campaign
from tests.faults.test_messages import EVENTS, ROUND
from tests.servers import PostgresServer, ServerFailed

IMAGES = ("rabbitmq:4-management", "rabbitmq:4.3-management")
SUITE = "tests/conformance"
SETTLES_S = 30.0
ROOT = Path(__file__).parents[2]


def run(image: str, postgres: PostgresServer) -> list[str]:
    """What is wrong on this image."""
    features = denied_by(image)
    server = RabbitContainer(image, features)
    try:
        server.start()
        version = server.ctl("version").strip()
        permitted = _still_permitted(server, features)
        _print(f"{image}: RabbitMQ {version}, denied: {', '.join(features) or 'nothing, it knows no deprecated features'}")
        wrong = [f"{image} still permits {name}" for name in permitted]
        wrong += _suite(server)
        with tempfile.TemporaryDirectory(prefix="eventplat-brokers-") as folder:
            report = asyncio.run(campaign(Path(folder), server, postgres, events=EVENTS, rate=1_400, pause_s=1.0, rounds=ROUND, say=_print))
        _print("\n".join(report.lines()))
        return wrong + report.wrong
    finally:
        server.remove()


def denied_by(image: str) -> tuple[str, ...]:
    """The deprecated features that this version knows and still has, asked of one that permits them."""
    server = RabbitContainer(image)
    try:
        server.start()
        features = json.loads(server.ctl("--formatter", "json", "list_deprecated_features", "name", "deprecation_phase"))
    except ServerFailed as error:
        if "'list_deprecated_features' not found" in str(error):  # it is older than that
            return ()
        raise
    finally:
        server.remove()
    return tuple(feature["name"] for feature in features if feature["deprecation_phase"] != "removed")


def _still_permitted(server: RabbitContainer, features: Sequence[str]) -> list[str]:
    """Those that it does not deny within a while: right after its start it may not know yet."""
    deadline = time.monotonic() + SETTLES_S
    while True:
        permitted = [name for name in features if permits(server, name)]
        if not permitted or time.monotonic() > deadline:
            return permitted
        time.sleep(1)


def permits(server: RabbitContainer, feature: str) -> bool:
    return server.ctl("eval", f"rabbit_deprecated_features:is_permitted({feature}).").split()[-1] != "false"  # behind a log line


def _suite(server: RabbitContainer) -> list[str]:
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / SUITE).glob("test_transport_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", "-k", "not embedded", *files]
    environment = {**os.environ, "EVENTPLAT_TEST_AMQP_URL": server.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    _print(done.stdout.strip().rpartition("\n")[2])
    return [f"the transport suite ended with {done.returncode}:\n{done.stdout[-6_000:]}"] if done.returncode else []


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=IMAGES)
    images = parser.parse_args().images
    postgres = PostgresServer(fsync="off")
    try:
        postgres.start()
        wrong = [each for image in images for each in run(image, postgres)]
    finally:
        postgres.remove()
    _print("\n".join([f"WRONG: {each}" for each in wrong] or [f"{len(images)} brokers hold"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
