"""Progress of long work. Stages take a `Progress`; the default one says nothing, the command line shows bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[float], None]
"""Called with the amount of work done since the last call."""


class Progress:
    """Silent progress: the base and the default."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """A piece of work of the given size."""
        yield lambda amount: None

    def note(self, text: str) -> None:
        """One line worth telling the user."""


class RichProgress(Progress):
    """Bars and lines on a terminal; plain lines where the output is not one."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<38}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bars:
            bar = bars.add_task(description, total=total)
            yield lambda amount: bars.advance(bar, amount)
            bars.update(bar, completed=total)

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
