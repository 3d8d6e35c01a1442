"""The program that SuperExec starts for each message: Flower's courier, which runs no app that this installation does not know.

The aggregator sends the courier's code along with a run. Nothing of it is unpacked unless its digest is that of the package
that is installed here, or one that the operator has named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.deploy import app_digest
from common.deploy.app_bundle import installed_app_digest
from common.deploy.doctor import Finding
from common.deploy.roles import SuperNodeConfig
from common.files import make_folder, write_atomically

_KNOWN_APPS: Final = "CROSSFED_KNOWN_APPS"
_REFUSED: Final = "CROSSFED_REFUSED_APP"
_REFUSED_FILE: Final = "refused-app"
# SuperExec looks this program up on PATH. Flower's own imports are most of a courier's time, and a third of theirs goes into
# a collector that walks what they have made so far, again and again, and all of it once more when the process ends (measured:
# 1.1 s of CPU time without, .65 s with this). Flower's function that unpacks an app is the only place before any of it runs;
# the digest's module is loaded from its file and not as part of common/, which the app brings along. The first lines are a
# shell's, which takes a Python whose path is long or has blanks, and Python's, for which they are a string.
_LAUNCHER: Final = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import gc
import importlib.util
import os

gc.disable()
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

gc.freeze()
gc.enable()
spec = importlib.util.spec_from_file_location("crossfed_app_digest", {digest!r})
pin = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pin)
install = run_clientapp.install_from_fab


def install_known(content, *rest, **options):
    try:
        pin.refuse_unknown(content, os.environ["{known}"].split())
    except pin.UnknownAppError as error:
        with open(os.environ["{refused}"], "w") as file:
            file.write(str(error))
        raise
    return install(content, *rest, **options)


run_clientapp.install_from_fab = install_known
flwr_clientapp()
"""
_LAUNCHER_NAME: Final = "flwr-clientapp"


def launcher_environment(supernode: SuperNodeConfig) -> Mapping[str, str]:
    """Write the launcher anew, since this Python may be another than last time, and say what SuperExec needs to start it."""
    folder, python = _folder(supernode), Path(sys.executable)
    make_folder(folder, mode=0o700)
    text = _LAUNCHER.format(python=python, digest=app_digest.__file__, known=_KNOWN_APPS, refused=_REFUSED)
    write_atomically(folder / _LAUNCHER_NAME, text.encode(), mode=0o700)
    (folder / _REFUSED_FILE).unlink(missing_ok=True)
    return {
        "PATH": os.pathsep.join([str(folder.resolve()), str(python.parent), os.environ.get("PATH", os.defpath)]),
        _KNOWN_APPS: " ".join([installed_app_digest(), *supernode.accept_apps]),
        _REFUSED: str((folder / _REFUSED_FILE).resolve()),
    }


def refused_app(supernode: SuperNodeConfig) -> Finding | None:
    """That an app of the aggregator's was refused since the courier's side started; None where none was."""
    try:
        said = (_folder(supernode) / _REFUSED_FILE).read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return None
    mend = (
        "install the aggregator's release here, or its operator installs yours; for an upgrade, supernode.accept_apps"
    )
    return Finding("wrong", "aggregator's app", f"was refused and nothing of it has run: {said}. Mend: {mend}")


def _folder(supernode: SuperNodeConfig) -> Path:
    return supernode.superexec_secret.parent / "programs"
