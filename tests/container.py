"""Container: a RabbitMQ of another version, from an image, in place of the private one. It needs a docker engine."""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from tests.servers import ServerFailed, free_ports, speaks_amqp
from tests.watchdog import watchdog

START_S = 120.0
CONFIG = "/etc/rabbitmq/conf.d/90-tests.conf"


class RabbitContainer:
    """As `RabbitServer`: it may be killed and started again, and keeps its data until it is removed.

    Args:
        image: As `rabbitmq:4.0-management`.
        denies: Deprecated features that this broker refuses. RabbitMQ before 4.0 knows none of them.
    """

    def __init__(self, image: str, denies: tuple[str, ...] = ()) -> None:
        self.image, self.name = image, f"eventplat-{uuid.uuid4().hex[:12]}"
        self.port = free_ports(1)[0]
        self._folder = Path(tempfile.mkdtemp(prefix="eventplat-container-"))
        self._folder.chmod(0o755)
        watchdog().tell("dir", self._folder)
        lines = ["loopback_users.guest = false", *(f"deprecated_features.permit.{feature} = false" for feature in denies)]
        (self._folder / "tests.conf").write_text("\n".join(lines) + "\n")
        self._is_made = False

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port}/"

    def start(self) -> None:
        """Start it, the first time from the image, and wait until it speaks AMQP."""
        if self._is_made:
            self._docker("start", self.name)
        else:
            self._docker("run", "--detach", "--name", self.name, "--hostname", "rabbitmq", "--publish", f"127.0.0.1:{self.port}:5672",
                         "--volume", f"{self._folder / 'tests.conf'}:{CONFIG}:ro", self.image)  # fmt: skip
            self._is_made = True
        deadline = time.monotonic() + START_S
        while not speaks_amqp(self.port):
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.image} did not start in {START_S:.0f} s:\n{self._docker('logs', '--tail', '40', self.name)}")
            time.sleep(0.2)

    def stop(self) -> None:
        self._docker("stop", "--time", "60", self.name)

    def kill(self) -> None:
        self._docker("kill", self.name)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Away with it and its data."""
        if self._is_made:
            self._docker("rm", "--force", "--volumes", self.name)

    def ctl(self, *args: str) -> str:
        """What `rabbitmqctl ARGS` prints."""
        return self._docker("exec", self.name, "rabbitmqctl", "--quiet", *args)

    def _docker(self, *args: str) -> str:
        done = subprocess.run(["docker", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise ServerFailed(f"docker {' '.join(args)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout
