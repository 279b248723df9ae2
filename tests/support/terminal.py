"""A terminal of some lines: answers what a person sees after all that was written to it."""

import io
import re

_PIECES = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """Knows what a display may ask for: lines, carriage returns, up, clear below, colours."""

    def isatty(self) -> bool:
        return True

    def see(self) -> tuple[list[str], tuple[int, int]]:
        """The lines from the top, blank ends cut off, and where the cursor is: (row, column)."""
        rows: list[list[str]] = [[]]
        row = column = 0
        for number, order, _, other, back, down, text in _PIECES.findall(self.getvalue()):
            if order == "A":
                row = max(0, row - int(number or 1))
            elif order == "J" and not number:
                rows[row : len(rows)] = [rows[row][:column]]
            elif back:
                column = 0
            elif down:
                row, column = row + 1, 0
                rows += [[] for _ in range(row + 1 - len(rows))]
            elif text:
                line = rows[row]
                line += [" "] * (column - len(line))
                line[column : column + len(text)] = text
                column += len(text)
            else:
                assert "m" in (order, other), f"found order {number}{order}{other}, needed a known"
        lines = ["".join(cells).rstrip() for cells in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines, (row, column)
