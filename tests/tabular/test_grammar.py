"""The automaton over all bytes: what it calls plain, wherever the text is cut for the threads."""

from __future__ import annotations

import pyarrow as pa
import pytest

from trainkit.tabular import grammar


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 22])
@pytest.mark.parametrize(
    ("text", "plain", "exact"),
    [
        ("a,b\n1,x\n2,\n", True, True),
        ('a,b\n"x, ""y""",-0.5\n"",0\n', True, True),
        ("a,b\r\n1,2\r\n", True, True),
        ("a,b\n1,007\n", True, False),
        ("a,b\n+5,1\n", True, False),
        ('a,b\n"-01",1\n', True, False),
        ("a,b\n 0x10,1\n", True, False),
        ("a,b\nroad 007,1\n", True, True),
        ("a,b\n1,2\n\n3,4\n", False, False),
        ('a,b\n1,5" pipe\n', False, False),
        ('a,b\n"x"y,2\n', False, False),
        ('a,b\n1,"x\n', False, False),
        ('a,b\n1,"x\ny"\n', False, False),
        ("a,b\r1,2\r", False, False),
    ],
)
def test_plain_text_is_told_wherever_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, text: str, plain: bool, exact: bool
) -> None:
    """Blank lines, stray and open quotes and newlines in fields are not plain; numbers like 007 not exact."""
    monkeypatch.setattr(grammar, "BLOCK_BYTES", block_bytes)
    buffer = pa.py_buffer(text.encode())
    assert grammar.is_plain(buffer, ",", quoted=True, exact_numbers=False) == plain
    assert grammar.is_plain(buffer, ",", quoted=True, exact_numbers=True) == exact
    if plain and not exact:
        assert grammar.has_doubtful_numbers(buffer, ",")
