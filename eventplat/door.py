"""Door: the public names of a package, each imported when it is first used.

A door says which file is each name's home. Who asks for one name loads that file and what it needs, and nothing else:
declaring a message loads neither a broker nor a database.

Source    PEP 562, Module __getattr__ and __dir__.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def opened(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a door.

    Args:
        package: Its `__name__`.
        homes: The module below `package` of each name.
    """

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
