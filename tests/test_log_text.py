"""What people see of a job's output: no overwritten lines, no control sequences; the end of a long log."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from trainkit.files import log_tail
from trainkit.files.log_tail import LogReader, LogTail, read_last_lines, read_log, read_piece
from trainkit.files.log_text import Screen

#: What tqdm writes of two nested bars, the inner one with leave=False.
NESTED_BARS = (
    b"\router 0/2\n\rinner 0/2\x1b[A\n\rinner 1/2\x1b[A\n\rinner 2/2\x1b[A\n\r         \r\x1b[A"
    b"\router 1/2\n\rinner 0/2\x1b[A\n\rinner 1/2\x1b[A\n\r         \r\x1b[A\router 2/2\n"
)
SHOWN = [
    (b"one\ntwo", "one\ntwo"),
    (b"one\r\ntwo\r\n", "one\ntwo\n"),
    (b"10 %\r50 %\r100 %\ndone", "100 %\ndone"),
    (b"loss\n\r1/3\r2/3\r3/3\r", "loss\n3/3"),
    (b"100 of 100\rdone\n", "done\n"),
    (b"50 %\r    \r\nnext", "\nnext"),
    (b"50 %\r    \rnext", "next"),
    (b"trailing spaces  \n", "trailing spaces  \n"),
    (b"|\b/\b-\b\\\n", "\\\n"),
    (b"10%\b\b\b20%\b\b\b\b\b\b30% done", "30% done"),
    (b"\x1b[31mred\x1b[0m\ttext\n", "red\ttext\n"),
    (b"\x1b[32m1/2\x1b[0m\r\x1b[K\x1b[32m2/2\x1b[0m\n", "2/2\n"),
    (b"a long frame\r\x1b[2Kshort\r\x1b[K", ""),
    (b"abcdef\x1b[3D\x1b[Kx", "abcx"),
    (b"abc\x1b[1Gx\x1b[5Gy", "xbc y"),
    (b"one\ntwo\nthree\x1b[2A\rONE\n\n\nend", "ONE\ntwo\nthree\nend"),
    (b"one\ntwo\nthree\x1b[2F\x1b[Jnew", "new"),
    (NESTED_BARS, "outer 2/2\n"),
    (b"\x1b]0;title\x07text\x1b]8;;https://a\x1b\\link\x1b]8;;\x1b\\", "textlink"),
    (b"\x1b(Bplain\x1b7\x1b8\x1bP1$r\x1b\\", "plain"),
    (b"\x1b[?25lhidden\x1b[?25h cursor", "hidden cursor"),
    (b"a\x00b\x07c\x0bd\x7fe\xc2\x9b2Jf", "abcde2Jf"),
    (b"\x1b[9999999999999999Cx\x1b[99999Dy", "yx"),
    (b"broken \xff\xfe text \xe2\x82", "broken \ufffd\ufffd text \ufffd"),
    ("grün 😀\r😀!\u2028".encode(), "😀!\u2028"),
    (b"cut \x1b[5;", "cut "),
    (b"", ""),
]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(("data", "text"), SHOWN)
def test_output_is_shown_as_a_terminal_shows_it(data: bytes, text: str, chunk_bytes: int) -> None:
    """Wherever the output is cut into chunks."""
    screen = Screen()
    for start in range(0, len(data), chunk_bytes):
        screen.feed(data[start : start + chunk_bytes])
    screen.finish()
    assert screen.rest() == text


def random_output(seed: int) -> bytes:
    pick = random.Random(seed)
    pieces = [b"text", b"\n", b"\n", b"\r", b"\b", b"\x1b[K", b"\x1b[A", b"\x1b[31m", "ü".encode(), b" ", b"\xff"]
    return b"".join(pick.choice(pieces) for _ in range(pick.randrange(200)))


@pytest.mark.parametrize("seed", range(50))
def test_chunks_make_no_difference_to_random_output(seed: int) -> None:
    data = random_output(seed)
    whole, parts = Screen(), Screen()
    whole.feed(data)
    for byte in data:
        parts.feed(bytes([byte]))
    whole.finish()
    parts.finish()
    assert parts.rest() == whole.rest()
    assert parts.position == whole.position == len(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


@pytest.mark.parametrize(("data", "text"), SHOWN)
def test_the_whole_log_and_its_last_lines_agree(path: Path, data: bytes, text: str) -> None:
    path.write_bytes(data)
    assert read_log(path) == text
    lines = text.split("\n")
    lines = [f"{line}\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])
    for count in range(6):
        assert read_last_lines(path, count) == "".join(lines[-count:] if count else [])


def pieces_of(path: Path, limit_bytes: int) -> list[log_tail.Piece]:
    found = [read_piece(path, 0, limit_bytes=limit_bytes, ended=True)]
    while found[-1].more:
        found.append(read_piece(path, found[-1].next, limit_bytes=limit_bytes, ended=True))
    return found


@pytest.mark.parametrize("limit_bytes", [100, 1000])
def test_pieces_together_are_the_log(path: Path, limit_bytes: int) -> None:
    """Also where a line is longer than a piece, and where the frames of a bar are."""
    path.write_bytes(b"begin\n" + b"".join(b"\rframe %d" % n for n in range(100)) + b"\n" + b"x" * 350 + b"\nend")
    pieces = pieces_of(path, limit_bytes)
    assert "".join(piece.text for piece in pieces) == read_log(path) == f"begin\nframe 99\n{'x' * 350}\nend"
    assert pieces[-1].next == path.stat().st_size


def test_a_piece_of_a_running_job_ends_before_what_may_change(path: Path) -> None:
    path.write_bytes(b"one\n10 %\r20 %")
    piece = read_piece(path, 0, limit_bytes=1000, ended=False)
    assert piece == ("one\n", "20 %", len(b"one\n10 %\r"), False)
    with open(path, "ab") as file:
        file.write(b"\r30 %\n")
    assert read_piece(path, piece.next, limit_bytes=1000, ended=False).text == "30 %\n"
    path.write_bytes(NESTED_BARS[: NESTED_BARS.index(b"outer 1/2")])
    assert read_piece(path, 0, limit_bytes=1000, ended=False)[:2] == ("", "outer 0/2\n")


def test_the_last_lines_of_a_big_log_are_read_from_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a gigabyte no more is fed to a screen than the lines that are returned, and a chunk at most."""
    fed = []
    feed = Screen.feed
    monkeypatch.setattr(Screen, "feed", lambda self, data: (fed.append(len(data)), feed(self, data))[1])
    with open(path, "wb") as file:
        file.seek(1 << 30)
        file.write(b"\n" + b"".join(b"line %d\n" % number for number in range(1000)))
    assert read_last_lines(path, 2) == "line 998\nline 999\n"
    assert sum(fed) < 1000
    tail = LogTail(path)
    assert tail.read()
    assert tail.all()[1].endswith("line 998\nline 999\n")
    assert sum(fed) < 1_000_000


def test_a_line_without_end_is_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is shown; memory does not grow with it."""
    monkeypatch.setattr(log_tail, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(log_tail, "ROW_CHARS", 500)
    monkeypatch.setattr(log_tail, "_LONGEST_LINE_BYTES", 3000)
    path.write_bytes(b"begin\n" + b"x" * 100_000)
    assert read_last_lines(path, 3) == "x" * 500 + "…"
    with LogReader(path, None) as reader:
        *_, (_, rest) = reader.read()
        assert rest == "x" * 500 + "…"
    tail = LogTail(path)
    tail.read()
    assert len(tail.all()[1]) < 5000


def test_more_lines_are_looked_for_where_bars_move_up(path: Path) -> None:
    """A bar below another writes a newline for each frame, and yet is one line."""
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(50)) + NESTED_BARS)
    assert read_last_lines(path, 3) == "line 48\nline 49\nouter 2/2\n"
    inner = b"".join(b"\n\rinner %d\x1b[A" % number for number in range(100))
    path.write_bytes(b"first\n\router 1/2" + inner + b"\n\rdone\n")
    assert read_last_lines(path, 2) == "outer 1/2\ndone\n", (
        "the outer bar is far before the last frame of the inner one"
    )


def test_a_reader_follows_a_log(path: Path) -> None:
    path.write_bytes(b"one\ntwo\n10 %\r20 %")
    with LogReader(path, 2) as reader:
        assert list(reader.read()) == [("two\n", "20 %")]
        with open(path, "ab") as file:
            file.write(b"\r30 %")
        assert list(reader.read()) == [("", "30 %")]
        with open(path, "ab") as file:
            file.write(b"\r40 %\nend")
        assert list(reader.read()) == [("40 %\n", "end")]
        assert reader.finish() == "end"


class Page:
    """What a panel's page makes of the changes that it is sent."""

    def __init__(self) -> None:
        self.first, self.rows = 0, [""]

    def take(self, change: tuple[int, str]) -> None:
        first, text = change
        known = self.first < first <= self.first + len(self.rows)
        self.rows = [*(self.rows[: first - self.first] if known else []), *text.split("\n")]
        if not known:
            self.first = first
        excess = max(0, len(self.rows) - 201)
        del self.rows[:excess]
        self.first += excess

    def text(self) -> str:
        return "\n".join(self.rows)


def test_a_page_that_is_sent_the_changes_shows_the_log(path: Path) -> None:
    """A new frame changes one row; rows before it are not sent again."""
    tail, page = LogTail(path), Page()
    assert not tail.read()
    for data, sent in [(b"one\ntw", 6), ("ö\n".encode(), 4), (b"10 %\r20", 2), (b" %\r30 %", 4), (b"\nend\n", 9)]:
        with open(path, "ab") as file:
            file.write(data)
        assert tail.read()
        change = tail.take_changes()
        assert len(change[1]) <= sent
        page.take(change)
        assert page.text() == tail.all()[1] == read_log(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_page_agrees_with_the_log_on_random_output(path: Path, seed: int) -> None:
    tail, page = LogTail(path), Page()
    for part in range(5):
        with open(path, "ab") as file:
            file.write(random_output(100 * seed + part))
        if tail.read():
            page.take(tail.take_changes())
    assert page.text() == tail.all()[1]


def test_a_flood_of_output_is_cut_in_the_panel(path: Path) -> None:
    """Of megabytes printed at once the end is shown, and the page forgets what it had."""
    tail, page = LogTail(path), Page()
    path.write_bytes(b"first\n")
    tail.read()
    page.take(tail.take_changes())
    for round_ in itertools.count():
        with open(path, "ab") as file:
            file.writelines(b"line %d\n" % number for number in range(100_000))
        tail.read()
        change = tail.take_changes()
        assert len(change[1]) < 40_000
        page.take(change)
        assert page.text() == tail.all()[1]
        assert page.text().endswith("line 99999\n")
        assert "first" not in page.text()
        assert 150 < len(page.rows) <= 201
        if round_:
            break


def test_a_log_that_shrinks_is_read_anew(path: Path) -> None:
    tail, page = LogTail(path), Page()
    path.write_bytes(b"old and long\n")
    tail.read()
    page.take(tail.take_changes())
    os.truncate(path, 0)
    tail.read()
    page.take(tail.take_changes())
    path.write_bytes(b"new\n")
    assert tail.read()
    page.take(tail.take_changes())
    assert page.text() == "new\n"
