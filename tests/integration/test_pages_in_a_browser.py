"""Consoles, report and the page of HTTP requests in a real Chromium.

Without a mouse, without script, at 400 % zoom, light and dark, in both languages.

``CROSSFED_SCREENS=FOLDER`` keeps a picture of each page, to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.console.places import platform_console
from client.service.http_gateway import OPERATIONS
from client.service.openapi import pages as openapi_pages
from common.web.console.serving import ConsoleServer
from server.console.places import aggregator_console
from simulations.report.page import write_report
from tests.support.browser import chromium, needs_chromium, serious
from tests.support.consoles import MARK, NASTY, a_user, aggregator_files, platform_files

pytestmark = [needs_chromium, pytest.mark.usefixtures("one_thread_a_module")]
PLATFORM = ("/", "/models", "/privacy", "/data", "/try")
AGGREGATOR = ("/", "/runs", "/runs?run=run-1")


@pytest.fixture(scope="module")
def one_thread_a_module() -> None:
    import numba

    numba.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread_a_module: None) -> Path:
    made = tmp_path_factory.mktemp("pages")
    platform_files(made)
    aggregator_files(made)
    return made


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[ConsoleServer]:
    with ConsoleServer(lambda port: platform_console(folder / "cinema" / "platform.yaml", port)) as server:
        yield server


@pytest.fixture(scope="module")
def user(folder: Path) -> str:
    return a_user(folder / "cinema" / "platform.yaml")


@pytest.fixture(scope="module")
def started() -> list[str]:
    """Runs that the aggregator's console began."""
    return []


@pytest.fixture(scope="module")
def aggregator(folder: Path, started: list[str]) -> Iterator[ConsoleServer]:
    def begin(config: object) -> str:
        started.append("run-3")
        return "run-3"

    path = folder / "agg" / "federation.yaml"
    with ConsoleServer(lambda port: aggregator_console(path, port, begin=begin)) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


class Visitor:
    """A page whose requests and complaints are noted."""

    def __init__(self, browser: Any, server: ConsoleServer | None, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.server = server

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def enter(self) -> None:
        assert self.server is not None
        self.page.goto(self.server.address)
        self.page.fill("#token", self.server.console.token)
        self.page.press("#token", "Enter")
        self.page.wait_for_url(self.server.address)

    def see(self, path: str) -> Any:
        assert self.server is not None
        self.page.goto(self.server.address.rstrip("/") + path)
        return self.page

    def keep(self, name: str) -> None:
        if kept := os.environ.get("CROSSFED_SCREENS"):
            self.page.screenshot(path=Path(kept) / f"{name}.png", full_page=True)

    def tried(self, path: str, user: str) -> None:
        """A page with all that it can show."""
        self.see(path)
        if path == "/data":
            self.page.click("main form button")
        if path == "/try":
            self.page.fill("#user", user)
            self.page.click("main form button")
            self.page.locator("summary").first.click()


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_no_page_has_a_serious_finding(
    browser: Any, user: str, platform: ConsoleServer, aggregator: ConsoleServer, scheme: str, locale: str
) -> None:
    for role, server, paths in (("platform", platform, PLATFORM), ("aggregator", aggregator, AGGREGATOR)):
        with Visitor(browser, server, color_scheme=scheme, locale=locale) as visitor:
            visitor.see("/")
            assert serious(visitor.page) == []
            visitor.keep(f"{role}-enter-{scheme}")
            visitor.enter()
            for path in paths:
                visitor.tried(path, user)
                assert serious(visitor.page) == [], path
                assert visitor.page.evaluate("document.documentElement.lang") == locale[:2]
                visitor.keep(f"{role}-{path.strip('/').replace('?', '-') or 'overview'}-{scheme}")
            assert visitor.complaints == []
            assert {url.split("/")[2] for url in visitor.asked if not url.startswith("data:")} == {
                server.address.split("/")[2]
            }


def test_the_report_has_no_serious_finding_and_asks_nobody(browser: Any, folder: Path) -> None:
    for scheme, language in (("light", "en"), ("dark", "zh")):
        report = write_report(folder / "run", language="zh" if language == "zh" else "en")
        with Visitor(browser, None, color_scheme=scheme) as visitor:
            visitor.page.goto(report.as_uri())
            assert serious(visitor.page) == []
            assert visitor.asked == [report.as_uri()]
            assert visitor.complaints == []
            visitor.keep(f"report-{scheme}")


def test_the_page_of_requests_has_no_serious_finding(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "docs.html"
    page.write_bytes(openapi_pages(OPERATIONS)["/docs"][1])
    for scheme, width in (("light", 1280), ("dark", 320)):
        with Visitor(browser, None, color_scheme=scheme, viewport={"width": width, "height": 256}) as visitor:
            visitor.page.goto(page.as_uri())
            assert serious(visitor.page) == []
            assert "``" not in visitor.page.inner_text("main")
            assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
            assert visitor.asked == [page.as_uri()]
            visitor.keep(f"docs-{scheme}")


@pytest.mark.parametrize("path", PLATFORM)
def test_a_platforms_page_is_readable_at_400_per_cent(
    browser: Any, user: str, platform: ConsoleServer, path: str
) -> None:
    # 1280 × 1024 at 400 %, as WCAG 1.4.10 has it.
    with Visitor(browser, platform, viewport={"width": 320, "height": 256}) as visitor:
        visitor.enter()
        visitor.tried(path, user)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 320
        visitor.keep(f"platform-{path.strip('/') or 'overview'}-400")


def test_the_others_are_readable_at_400_per_cent(browser: Any, aggregator: ConsoleServer, folder: Path) -> None:
    with Visitor(browser, aggregator, viewport={"width": 320, "height": 256}) as visitor:
        visitor.enter()
        for path in AGGREGATOR:
            assert visitor.see(path).evaluate("document.documentElement.scrollWidth") <= 320, path
        visitor.page.goto(write_report(folder / "run").as_uri())
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 320
        visitor.keep("report-400")


def test_everything_works_without_script(
    browser: Any, user: str, platform: ConsoleServer, aggregator: ConsoleServer, started: list[str]
) -> None:
    with Visitor(browser, platform, java_script_enabled=False) as visitor:
        visitor.enter()
        visitor.tried("/data", user)
        assert "views.csv" in visitor.page.inner_text("main")
        visitor.see("/models").click("text=Let it serve")
        assert visitor.page.locator("tr", has_text="serves").locator("th").inner_text() == "1"
        visitor.page.click("text=Let it serve")
        visitor.tried("/try", user)
        assert visitor.page.locator("main ol li").count() == 10
        visitor.page.click("text=中文")
        assert visitor.page.locator("html").get_attribute("lang") == "zh"
        visitor.page.click("text=退出")
        assert visitor.page.url.endswith("/enter")
    with Visitor(browser, aggregator, java_script_enabled=False) as visitor:
        visitor.enter()
        before = len(started)
        visitor.page.click("text=Start a run >> nth=-1")
        visitor.page.wait_for_url(aggregator.address)
        assert len(started) == before + 1


def test_everything_is_reached_by_keyboard(browser: Any, user: str, platform: ConsoleServer) -> None:
    with Visitor(browser, platform) as visitor:
        page = visitor.see("/")
        focused = "document.activeElement.matches(':focus-visible') && document.activeElement.textContent.trim()"
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.type(platform.console.token)
        page.keyboard.press("Enter")
        page.wait_for_url(platform.address)
        seen = []
        for _ in range(8):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(focused))
        assert [each for each in seen if each] [:6] == [
            "Skip to the content", "Overview", "Models", "Privacy", "Data", "Try a user",
        ]  # fmt: skip
        page.locator("nav >> text=Try a user").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/try")
        page.locator("#user").focus()
        page.keyboard.type(user)
        page.keyboard.press("Enter")
        page.wait_for_selector("main ol")
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open]").count() == 1


def test_the_script_brings_the_live_part_up_to_date(browser: Any, aggregator: ConsoleServer, folder: Path) -> None:
    with Visitor(browser, aggregator) as visitor:
        visitor.page.clock.install()
        visitor.enter()
        assert "run-9" not in visitor.page.inner_text("main")
        made, there = folder / "agg" / "state" / "runs" / "run-9", folder / "agg" / "state" / "runs" / "run-1"
        made.mkdir()
        text = (there / "status.json").read_text().replace("run-1", "run-9")
        (made / "status.json").write_text(text)
        try:
            visitor.page.clock.fast_forward(6_000)
            visitor.page.wait_for_selector("text=run-9")
        finally:
            (made / "status.json").unlink()
            made.rmdir()


def test_titles_and_errors_of_others_are_text(
    browser: Any, user: str, platform: ConsoleServer, aggregator: ConsoleServer
) -> None:
    shown = NASTY.replace("\u202e", r"\u202e")
    with Visitor(browser, aggregator) as visitor:
        visitor.enter()
        assert "missed" in visitor.page.locator("tr", has_text="forum").inner_text()
        assert shown in visitor.see("/runs").inner_text("main")
        assert visitor.complaints == []
    with Visitor(browser, platform) as visitor:
        visitor.enter()
        visitor.see("/try").fill("#user", user)
        visitor.page.fill("#k", "20")
        visitor.page.click("main form button")
        assert visitor.page.locator("main script").count() == 0
        assert visitor.complaints == []


def test_no_page_or_log_has_a_user(
    browser: Any, user: str, platform: ConsoleServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(0), Visitor(browser, platform) as visitor:
        visitor.enter()
        for path in PLATFORM:
            visitor.tried(path, user)
            assert MARK not in visitor.page.content(), path
            if path != "/try":
                assert "Film " not in visitor.page.content(), "no page but the one that was asked for shows items"
        visitor.see("/try").fill("#user", f"nobody-{MARK}")
        visitor.page.click("main form button")
        assert "does not know that user" in visitor.page.inner_text("main")
        assert MARK not in visitor.page.content()
        assert not [url for url in visitor.asked if MARK in url]
    assert MARK not in caplog.text
