"""Finding services: by module name, file, or every folder of `services/`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from eventplat.errors import NoSuchService
from eventplat.service.service import Service


def load_service(name: str) -> Service[Any]:
    """The one Service of a module ("services.stock", or its `.service`) or file ("app.py").

    Raises:
        NoSuchService: There is no such module, or it holds no Service or several.
    """
    module = _import(name)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Service)}
    if not found and hasattr(module, "__path__"):
        return load_service(f"{name}.service")
    if len(found) != 1:
        names = ", ".join(service.name for service in found.values()) or "none"
        raise NoSuchService(f"{name} holds {len(found)} services ({names})")
    return next(iter(found.values()))


def discover(folder: Path = Path("services")) -> list[Service[Any]]:
    """Every service in `folder`: its sub-folders and files that hold one, by name."""
    if not folder.is_dir():
        raise NoSuchService(f"there is no folder {folder}/ here")
    names = [
        f"{folder.name}.{entry.stem}"
        for entry in sorted(folder.iterdir())
        if (entry.is_dir() and (entry / "service.py").exists()) or (entry.suffix == ".py" and entry.stem != "__init__")
    ]
    return [load_service(name) for name in names]


def known(modules: Sequence[str] = ()) -> list[Service[Any]]:
    """The services whose code is here: of `modules`, else of `services/`, else of `app.py`; none of them, and none is known.

    Raises:
        NoSuchService: A named module is not there.
    """
    if modules:
        return [load_service(module) for module in modules]
    if Path("services").is_dir():
        return discover()
    return [load_service("app.py")] if Path("app.py").is_file() else []


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _import_file(Path(name))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise NoSuchService(f"there is no module {name!r}") from None
        raise


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise NoSuchService(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pydantic resolves annotations through it
    spec.loader.exec_module(module)
    return module
