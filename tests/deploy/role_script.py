"""Programs of roles that hosts run by themselves, loaded as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

_ROLES = Path(__file__).resolve().parents[2] / "playbooks" / "roles"


def load_script(role: str, name: str) -> ModuleType:
    """Return ``roles/ROLE/files/NAME.py`` as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"{role}_{name}", _ROLES / role / "files" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
