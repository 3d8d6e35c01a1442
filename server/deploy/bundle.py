"""The Flower app that platforms' SuperNodes get: code only, copied from the installed package.

A wheel has no ``pyproject.toml``, and Flower bundles whatever lies in the app's folder. So the app is staged in a folder
that holds nothing else: the ServerApp, the courier, and what both import.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from common.errors import ConfigError
from common.files import make_folder

# The courier is all of client/ that may be shipped: a platform's own side is installed by the platform.
_COURIER: Final = ("__init__.py", "app.py", "remote.py")
_PYPROJECT: Final = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "crossfed"
version = "{version}"
description = "Recommendations across platforms whose users' data may not leave home."
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.hatch.build.targets.wheel]
packages = ["client", "common", "server"]

[tool.flwr.app]
publisher = "crossfed"
fab-include = ["client/**/*.py", "common/**/*.py", "server/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run-name = ""
"""


def stage_app(folder: Path) -> Path:
    """Copy the app's code into ``folder`` (replaced if it is there) and return it.

    Raises:
        ConfigError: the package is not installed as files, or something else lies in ``folder``.
    """
    if folder.exists() and not _is_staged(folder):
        raise ConfigError(f"{folder}: holds what crossfed has not put there; move it away, or set another state folder")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    # First, so that a copy which is cut short is known as one.
    (folder / "pyproject.toml").write_text(_PYPROJECT.format(version=version("crossfed")))
    for package in ("common", "server"):
        source = _package_folder(package)
        for path in sorted(source.rglob("*.py")):
            _copy(path, folder / package / path.relative_to(source))
    client = _package_folder("client")
    for name in _COURIER:
        _copy(client / name, folder / "client" / name)
    return folder


def _is_staged(folder: Path) -> bool:
    """Whether an earlier call made it, or nothing is in it."""
    try:
        return 'publisher = "crossfed"' in (folder / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return not any(folder.iterdir())
    except OSError:
        return False


def _package_folder(name: str) -> Path:
    # Found without importing it: the aggregator has no business with the client's code but to pass it on.
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the package {name!r} is not installed; install crossfed again")
    return Path(spec.origin).parent


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
