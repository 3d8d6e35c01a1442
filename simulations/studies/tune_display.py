"""The live display of ``crossfed-simulate tune``: trials, time, the best so far; a line a trial without a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from common.deploy.console import PlainColumn, PlainConsole
from simulations.studies.tune import Tried, best_of


class TrialDisplay:
    """Told of stages and trials.

    Args:
        console: where to.
        trials: how many there will be.
    """

    def __init__(self, console: PlainConsole, trials: int) -> None:
        self._console = console
        self._progress = Progress(
            PlainColumn("{task.description}", "bold"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            PlainColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=trials, detail="")
        self._tried: list[Tried] = []

    def __enter__(self) -> TrialDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_stage(self, text: str) -> None:
        """Name the stage."""
        self._progress.update(self._task, description=text)

    def on_trial(self, tried: Tried) -> None:
        """Show what came of a trial."""
        self._tried.append(tried)
        best = best_of(self._tried)
        shown = "failed" if tried.value is None else f"{tried.value:.4f}"
        detail = shown if best is None or best.value is None else f"{shown}  best {best.value:.4f}"
        self._progress.update(self._task, completed=tried.number + 1, detail=detail)
        if not self._console.is_terminal:
            name = "as it stands" if tried.number < 0 else f"trial {tried.number}"
            self._console.print(
                f"{name}: {detail}  {tried.seconds:.1f} s" + (f"  {tried.error}" if tried.error else "")
            )
