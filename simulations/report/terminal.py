"""The simulator's live display and its closing table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from client.data.report import CleaningReport
from common.deploy.console import FieldColumn, PlainColumn, PlainConsole, PlainTable, styled
from common.visible import visible
from server.federation.state import RoundRecord
from simulations.engine.datasets import SimulatedPlatform


class ConsoleObserver:
    """Shows stage, round, platform, objective, bytes and time while a simulation runs; a line a round without a terminal.

    Args:
        console: where to.
        rounds: of the plan.
    """

    def __init__(self, console: PlainConsole, rounds: int) -> None:
        self._console = console
        self._progress = Progress(
            PlainColumn("{task.description}", "bold"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            FieldColumn("detail"),
            console=console,
        )
        self._task = self._progress.add_task("round", total=rounds, detail=styled(""))
        self._stage = styled("")
        self._live = Live(Group(self._stage, self._progress), console=console, transient=True, refresh_per_second=8)
        self._last = ""

    def __enter__(self) -> ConsoleObserver:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on_stage(self, text: str) -> None:
        """Name the stage."""
        self._stage.plain = visible(text)
        if not self._console.is_terminal:
            self._console.print(text)

    def on_reply(self, server_round: int, kind: str, platform: str, code: str, reply_bytes: int) -> None:
        """Name the platform that answered."""
        outcome = styled(megabytes(reply_bytes)) if code == "ok" else styled(code, "red")
        detail = styled(f"{platform}: {kind} ").append_text(outcome).append_text(styled(f"  {self._last}"))
        self._progress.update(self._task, detail=detail)

    def on_round(self, record: RoundRecord) -> None:
        """Show a completed round."""
        objective = "" if record.objective is None else f"objective {record.objective:,.1f}"
        recall = "" if record.recall is None else f"  validation Recall@20 {record.recall:.3f}"
        traffic = f"  up {megabytes(record.bytes_up)}  down {megabytes(record.bytes_down)}"
        self._last = objective + recall + traffic
        done = 0 if record.phase == "race" else record.round
        self._progress.update(self._task, completed=done, detail=styled(self._last))
        if not self._console.is_terminal:
            name = "step of the race" if record.phase == "race" else "round"
            self._console.print(f"{name} {record.round:>3}  {self._last}  {record.seconds:.2f} s", soft_wrap=True)


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def result_tables(content: Mapping[str, Any]) -> Group:
    """The closing tables of a run."""
    own = _table(
        f"Own items, test interactions: {_recall_of(content)}", "users", "items", "popular", "local", "shared", "final"
    )
    own.add_column("verdict", no_wrap=True)
    cross = _table("Items of the other platforms: Recall@20", "users", "popular", "shared", "final", "×")
    cross.add_column("ceiling", justify="right")
    cross.add_column("gap closed", justify="right")
    cross.add_column("chosen", no_wrap=True)
    for name, part in content["platforms"].items():
        cells = [_number(part["own"][scorer]["recall@20"]) for scorer in ("popularity", "local", "shared", "final")]
        own.add_row(name, f"{part['users']:,}", f"{part['items']:,}", *cells, part["verdict"])
        if part["cross"] is not None:
            cross.add_row(name, *_cross_cells(part["cross"]))
    parts: list[RenderableType] = [own]
    if content["model"]["feedback"] == "explicit":
        parts.append(_ratings_table(content))
    if cross.row_count:
        parts += [cross, styled(_chosen_lines(content))]
    if content.get("passports"):
        parts.append(_passport_table(content))
    if content.get("choice") is not None:
        parts.append(styled(_choice_lines(content["choice"])))
    if content["price"]:
        parts.append(_privacy_cost_table(content))
    if content["privacy"]["mode"] == "none":
        parts.append(
            styled("NOT PRIVATE (plan.privacy.mode: none): exact sums over users left the platforms.\n", "bold")
        )
    parts.append(_closing_line(content))
    return Group(*parts)


def cleaning_text(platforms: Iterable[SimulatedPlatform]) -> str:
    """Return what cleaning dropped of the platforms' data and why; once where several have it from the same file."""
    names: dict[CleaningReport, list[str]] = {}
    for platform in platforms:
        names.setdefault(platform.report, []).append(platform.name)
    return "\n".join(f"{', '.join(whose)}: {report.render()}" for report, whose in names.items())


def _ratings_table(content: Mapping[str, Any]) -> PlainTable:
    """How far predicted ratings are off: what the models of explicit feedback are trained and judged for."""
    table = _table("Own items, test ratings: RMSE (MAE)", "local", "shared", "final", "pooled")
    for name, part in content["platforms"].items():
        blocks = [*(part["own"][scorer] for scorer in ("local", "shared", "final")), content["pooled"][name]]
        table.add_row(name, *(f"{_number(block['rmse'])} ({_number(block['mae'])})" for block in blocks))
    return table


def _recall_of(content: Mapping[str, Any]) -> str:
    return "Recall@20" if content["protocol"] == "full" else "Recall@20 among 99 sampled others"


def _privacy_cost_table(content: Mapping[str, Any]) -> PlainTable:
    """Return what privacy costs: local, shared without noise, and shared at each ε, side by side.

    Own items: the shared factors alone. The others' items: what is served, factors with attributes and popularity; without
    noise with the weights that this run chose, at each ε with those that ship.
    """
    headings = ("local", "no noise", *(f"ε = {point['epsilon']:g}" for point in content["price"]))
    table = _table(
        "Privacy cost, Recall@20: shared factors on own items |\nwhat is served, with attributes, on the others' items",
        *headings,
    )
    for name, part in content["platforms"].items():
        cells = [_number(part["own"]["local"]["recall@20"]), _two(part["own"]["shared"], part["cross"])]
        cells += [_two(point["own"][name], point["cross"].get(name)) for point in content["price"]]
        table.add_row(name, *cells)
    if any(point["noise"] == "per_platform" for point in content["price"]):
        table.caption = "Noise of each platform by itself (per_platform), not shared under a secure sum."
        table.caption_justify = "left"
    return table


def _passport_table(content: Mapping[str, Any]) -> PlainTable:
    """Return what passports bring to people who are new on a platform, beside popularity and a few own interactions."""
    table = PlainTable("passport", title="New people with a passport: Recall@20", lined=True, padding=(0, 1, 0, 0))
    for heading in ("holders", "new", "popular", "passport", "×", "worth"):
        table.add_column(heading, justify="right")
    for block in content["passports"]:
        ratio = block["over_popularity"]
        table.add_row(
            f"{block['from']} to {block['to']}",
            f"{block['holders']:,}",
            f"{block['cold']:,}",
            _number(block["popularity"]["recall@20"]),
            _number(block["passport"]["recall@20"]),
            "-" if ratio is None else f"{ratio:.2f}",
            _worth_of(block),
        )
    table.caption = "worth: so many own interactions without a passport find as much."
    table.caption_justify = "left"
    return table


def _worth_of(block: Mapping[str, Any]) -> str:
    if not block["own"]:
        return "-"
    return f"> {block['own'][-1]['own']}" if block["worth"] is None else f"{block['worth']:.1f}"


def fold_table(contents: Sequence[Mapping[str, Any]]) -> PlainTable:
    """Mean ± standard deviation over folds, own test interactions: RMSE of ratings, else Recall@20."""
    explicit = contents[0]["model"]["feedback"] == "explicit"
    metric, scorers = ("rmse", ()) if explicit else ("recall@20", ("popularity",))
    scorers = (*scorers, "local", "shared", "final")
    headings = ["popular" if scorer == "popularity" else scorer for scorer in scorers]
    table = _table(
        f"Own items over {len(contents)} folds: {'RMSE' if explicit else _recall_of(contents[0])}", *headings
    )
    for name in contents[0]["platforms"]:
        cells = []
        for scorer in scorers:
            values = [content["platforms"][name]["own"][scorer][metric] for content in contents]
            cells.append("-" if None in values else f"{fmean(values):.3f} ± {stdev(values):.3f}")
        table.add_row(name, *cells)
    return table


def _two(own: Mapping[str, Any], cross: Mapping[str, Any] | None) -> str:
    cross_cell = "" if cross is None else f" | {_number(cross['final']['recall@20'])}"
    return _number(own["recall@20"]) + cross_cell


def _table(title: str, *numbers: str) -> PlainTable:
    """A table of numbers by platform, narrow enough for 80 columns."""
    table = PlainTable("platform", title=title, lined=True, padding=(0, 1, 0, 0))
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _cross_cells(block: Mapping[str, Any]) -> list[str]:
    popularity, final = block["popularity"]["recall@20"], block["final"]["recall@20"]
    ratio = f"{final / popularity:.2f}" if popularity and final is not None else "-"
    ceiling = "-" if block["ceiling"] is None else _number(block["ceiling"]["recall@20"])
    gap = "-" if block["gap_closed"] is None else f"{block['gap_closed']:.0%}"
    return [
        f"{block['final']['users']:,}",
        _number(popularity),
        _number(block["shared"]["recall@20"]),
        _number(final),
        ratio,
        ceiling,
        gap,
        _chosen(block["chosen"]),
    ]


def _chosen(verdict: Mapping[str, Any] | None) -> str:
    return "configured" if verdict is None else str(verdict["name"])


def _chosen_lines(content: Mapping[str, Any]) -> str:
    """Why that ranks: by how much it was better than popularity on items that each platform hid from itself."""
    intervals = [
        f"{name} {part['cross']['chosen']['interval'][0]:+.3f} to {part['cross']['chosen']['interval'][1]:+.3f}"
        for name, part in content["platforms"].items()
        if part["cross"] is not None and part["cross"]["chosen"] is not None
    ]
    if not intervals:
        return ""
    return f"× of popularity. Chosen on own items, hidden for it; blend - popularity: {'; '.join(intervals)}\n"


def _choice_lines(choice: Mapping[str, Any]) -> str:
    """The choice of ``model: auto``, and the settings that it was made from."""
    setting = choice["setting"]
    if choice["by"] == "table":
        return f"model: auto, from the table under privacy: {_settings(setting)}, {setting['rounds']} rounds\n"
    ranked = sorted(choice["trials"], key=lambda trial: -max(trial["scores"]))
    found = "; ".join(f"{max(trial['scores']):.3f} {_settings(trial['model'])}" for trial in ranked[:3])
    return (
        f"model: auto, {_settings(setting)}, {setting['rounds']} rounds: best of {len(ranked)} settings in "
        f"{choice['steps']} steps. Mean of Recall@20 and NDCG@20 of validation users: {found}; … "
        f"{max(ranked[-1]['scores']):.3f} {_settings(ranked[-1]['model'])}\n"
    )


def _settings(setting: Mapping[str, Any]) -> str:
    d, ridge, weight = (setting[name] for name in ("dimension", "regularization", "unobserved_weight"))
    return f"d {d}, λ {ridge:g}, α₀ {weight:g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _raced(rounds: Sequence[Mapping[str, Any]]) -> str:
    steps = sum(record["phase"] == "race" for record in rounds)
    return f", {steps} of them of the race" if steps else ""


def _closing_line(content: Mapping[str, Any]) -> RenderableType:
    rounds, seconds, vocabulary = content["rounds"], content["seconds"], content["vocabulary"]
    raced = _raced(rounds)
    up, down = (sum(record[key] for record in rounds) for key in ("bytes_up", "bytes_down"))
    return styled(
        f"{vocabulary['items']:,} items, {vocabulary['shared']:,} on more than one platform; {len(rounds)} rounds{raced}, "
        f"{megabytes(up)} up, {megabytes(down)} down; {seconds['total']:.1f} s, of them {seconds['platforms']:.1f} s in "
        f"the platforms and {seconds['aggregator']:.2f} s in the aggregator"
    )
