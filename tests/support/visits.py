"""A visitor of a running console without a browser: enters with the token, reads pages, sends their forms."""

from __future__ import annotations

import html
import re
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

from common.web.console.serving import ConsoleServer


class ConsoleVisit:
    """Args: server: a running console; entered at once."""

    def __init__(self, server: ConsoleServer) -> None:
        self._address = server.address.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._send("/enter", {"token": server.console.token})

    def see(self, path: str = "/") -> str:
        """The text of a page, tags taken out and blanks made one."""
        return _text(self._page(path))

    def send(self, path: str, **fields: str) -> str:
        """Send a page's form and read the page that it leads to."""
        found = re.search(r'name="csrf" value="([^"]+)"', self._page(path))
        assert found is not None, f"no form on {path}"
        return _text(self._send(path, fields | {"csrf": found[1]}))

    def _page(self, path: str) -> str:
        with self._opener.open(self._address + path, timeout=60) as answer:
            return str(answer.read().decode())

    def _send(self, path: str, fields: dict[str, str]) -> str:
        request = urllib.request.Request(
            self._address + path,
            urllib.parse.urlencode(fields).encode(),
            {"Origin": self._address, "Content-Type": "application/x-www-form-urlencoded"},
        )
        with self._opener.open(request, timeout=60) as answer:
            return str(answer.read().decode())


def _text(page: str) -> str:
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", " ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
