"""The tokens by which a platform's applications show who they are: lines of a file, which may change meanwhile."""

from __future__ import annotations

import hmac
from logging import getLogger
from pathlib import Path

from common.errors import ConfigError

_log = getLogger(__name__)


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line: the first is sent, all are accepted.

    Raises:
        ConfigError: the file is not there, empty, or open to others.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"recommender.token_file: {path} cannot be read ({why})") from None
    if mode & 0o077:
        raise ConfigError(f"recommender.token_file: {path} is open to other users of this machine; chmod 600 it")
    tokens = [line.strip() for line in text.splitlines() if line.strip()]
    if not tokens:
        raise ConfigError(
            f"recommender.token_file: {path} is empty, and without a token everybody is answered; write one into it, or set "
            "token_file: null"
        )
    return tokens


def read_token(path: Path | None) -> str | None:
    """The token that is sent; None where none is asked for.

    Raises:
        ConfigError: as :func:`read_tokens`.
    """
    return None if path is None else read_tokens(path)[0]


class CurrentTokens:
    """Accepts what the file holds now. Where it cannot be used, what it held last stays in force, and the log says so once.

    Args:
        path: of the file.

    Raises:
        ConfigError: as :func:`read_tokens`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._state()
        self._headers = self._read()

    def accept(self, header: bytes) -> bool:
        """Whether an ``authorization`` header shows one of the tokens."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            try:
                self._headers = self._read()
                _log.info("the applications' tokens were read anew: %d", len(self._headers))
            except ConfigError as error:
                _log.warning("%s; the tokens of before stay in force", error)
        return any(hmac.compare_digest(header, expected) for expected in self._headers)

    def _read(self) -> list[bytes]:
        return [f"Bearer {token}".encode() for token in read_tokens(self._path)]

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


class FixedToken:
    """Accepts one token, which was given."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}".encode()

    def accept(self, header: bytes) -> bool:
        """Whether an ``authorization`` header shows it."""
        return hmac.compare_digest(header, self._header)


Tokens = CurrentTokens | FixedToken
