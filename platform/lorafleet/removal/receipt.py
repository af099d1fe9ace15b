"""What was removed, by kind: for the terminal and as JSON. Knows counts and bytes; refuses to know files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(frozen=True)
class Removed:
    """How much of one kind is removed."""

    kind: str
    count: int = 1
    bytes: int = 0


@dataclass
class Receipt:
    """Collects what is removed while it goes; kinds stay in the order in which they came first."""

    _by_kind: dict[str, Removed] = field(default_factory=dict)

    def add(self, kind: str, count: int = 1, size: int = 0) -> None:
        """Adds so many things of a kind, of so many bytes in all; nothing where the count is 0."""
        if count:
            before = self._by_kind.get(kind, Removed(kind, 0))
            self._by_kind[kind] = Removed(kind, before.count + count, before.bytes + size)

    @property
    def rows(self) -> tuple[Removed, ...]:
        """One for each kind."""
        return tuple(self._by_kind.values())


def as_document(rows: Sequence[Removed]) -> list[dict[str, str | int]]:
    """The rows for a JSON document."""
    return [{"kind": row.kind, "count": row.count, "bytes": row.bytes} for row in rows]


def as_table(rows: Sequence[Removed], title: str) -> Table:
    """The rows and their sum for people; the first column is called `title`."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=bool(rows))
    table.add_column(title, "in all", no_wrap=True)
    table.add_column("count", str(sum(row.count for row in rows)), justify="right")
    table.add_column("size", readable(sum(row.bytes for row in rows)), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.kind, str(row.count), readable(row.bytes) if row.bytes else "")
    return table


def readable(size: float) -> str:
    """Bytes in the unit that gives at most four digits before the point: `812 B`, `5.3 MiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    unit = 0
    while size >= 1024 and unit < len(units) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} B" if unit == 0 else f"{size:.1f} {units[unit]}"
