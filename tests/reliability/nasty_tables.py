"""Files that people have, and that readers misread: each with what it holds.  See ``reading.py``."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.reliability.reading import Case, Text, written

#: Fields that a reader which guesses turns into something else.
WORDS = [
    "007", "7", "-0", "+5", "0x10", "1e400", "-1e400", "1e-400", "1E-0400", "0e0", "5e-324", "1e5", "nan", "NaN",
    "inf", "-Infinity", "NA", "N/A", "None", "null", "NULL", "#N/A", "True", "TRUE", "false", "yes", "12:30",
    "9007199254740993", "12345678901234567890", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "18446744073709551616", "0.5", ".5", "5.", "-.5e-3", "1_000", "1,5", "1.000,5",
    "2020-02-29", "2021-02-29", "0000-00-00", "2020-01-01 10:00", "2020-01-01T10:00:00.5", "2020-01-01T00:00:00Z",
    "2020-01-01T00:00:00+05:00", "2300-01-01 00:00:00.5", "01/02/2020", "20200229", " 5", "5 ", " ", " True",
    'say "hi"', "a\nb", "a\r\nb", "a\rb", "é", "\t", "-", "", "00", "0", "0.0", "1.0", "-01", "1e-7", "١٢", "５",
    "\x0b5", "5\xa0", "\ufeff5", "0.1e999", "0.1000000000000000055511151231257827", "3.141592653589793238", "\x1a",
    "1e5e5", "--5", "5%", "$5", "1/2", "0b1", "0o7", "1j", "\u2028", "=1+1", "'5", "\\N", "a\\nb",
    "0." + "0" * 330 + "1",
]  # fmt: skip

GZIPPED = gzip.compress(b"a,b\n" + b"".join(b"%d,x%d\n" % (i, i) for i in range(200)), mtime=0)
PARQUET = io.BytesIO()
pq.write_table(pa.table({"a": list(range(200)), "b": [f"x{i}" for i in range(200)]}), PARQUET)
WHOLE = {"a": [str(i) for i in range(200)], "b": [f"x{i}" for i in range(200)]}


def cases() -> Iterator[Case]:
    """Every file, in no order that matters."""
    for some in (_words, _shapes, _encodings, _choices, _json_lines, _compressed, _parquet):
        yield from some()


def heavy_cases() -> Iterator[Case]:
    """Files that end the process, or take all of its memory, where nobody looks before reading."""
    yield from _deep()
    yield from _bombs()
    yield from _wide()


def _words() -> Iterator[Case]:
    for word in WORDS:
        for others in (["1", "2"], ["0.5", None], ["x", "y"]):
            column = [others[0], word, others[1]]
            text = written([column, ["p", "q", "r"]])
            yield Case(f"{word!r} among {others}", text.encode(), {"c0": column, "c1": ["p", "q", "r"]})
    for word in WORDS:
        column = [word, word]
        text = written([column, ["p", "q"]], quote_all=True, newline="\r\n", mark="\t")
        yield Case(f"{word!r} in TSV", b"\xef\xbb\xbf" + text.encode(), {"c0": column, "c1": ["p", "q"]}, "t.tsv")


def _shapes() -> Iterator[Case]:
    refused = [
        ("a short row", "a,b\n1,2\n3\n5,6\n", 3),
        ("a short last row", "a,b\n1,2\n3\n", 3),
        ("a long row", "a,b\n1,2\n3,4,5\n", 3),
        ("a long first row", "a,b\n1,2,3\n4,5\n", 2),
        ("every row long", "a,b\n1,2,3\n4,5,6\n", 2),
        ("a comma at every end", "a,b\n1,2,\n3,4,\n", 2),
        ("ragged after newlines in fields", 'a,b\n"x\n\ny",2\n3\n', 5),
        ("the same name twice", "a,a\n1,2\n", 1),
        ("the same name thrice", "a,b,a,a\n1,2,3,4\n", 1),
        ("the same name, quoted", 'a,"a"\n1,2\n', 1),
        ("no name", "a,\n1,2\n", 1),
        ("an index of pandas's", ",a\n0,5\n", 1),
        ("a blank name", "a, \n1,2\n", 1),
        ("a header alone", "a,b\n", 1),
        ("a blank line", "a,b\n1,2\n\n3,4\n", 3),
        ("a blank line of a DOS file", "a,b\r\n1,2\r\n\r\n3,4\r\n", 3),
        ("a blank first line", "\na,b\n1,2\n", 1),
        ("a line of blanks", "a,b\n1,2\n  \n3,4\n", 3),
        ("an open quote", 'a,b\n1,"2\n3,4\n', 2),
        ("a cut quote", 'a,b\n1,2\n3,"4', 3),
        ("text after a quote", 'a,b\n1,"2"x\n', 2),
        ("a quote in a field", 'a,b\n1,5" pipe\n', 2),
        ("quotes with blanks before", 'a,b\n1, "2,5"\n', 2),
        ("a backslash before a quote", 'a,b\n1,"say \\"hi\\""\n', 2),
        ("a comment", "# made by hand\na,b\n1,2\n", 2),
        ("a title", "My table\na,b\n1,2\n", 2),
        ("a summary at the end", "a,b\n1,2\n3,4\n2 rows\n", 4),
        ("the end of a DOS file", "a,b\n1,2\n\x1a", 3),
        ("a zero byte", "a,b\n1,\0\n", 2),
        ("many zero bytes at the end", "a,b\n1,2\n" + "\0" * 50, 3),
        ("cut within a row", "a,b,c\n1,2,3\n4,5", 3),
        ("other delimiters further down", "a,b\n1,2\n3;4\n", 3),
        ("a header with fewer names", "a\n1,2\n3,4\n", 2),
    ]
    for name, text, line in refused:
        yield Case(name, text.encode(), None, line=line)
    yield Case("nothing at all", b"", None, anywhere=True)
    yield Case("a mark and nothing", b"\xef\xbb\xbf", None)
    yield Case("newlines only", b"\n\n\n", None)
    sound: list[tuple[str, str, dict[str, list[Any]]]] = [
        ("newlines of an old Mac", "a,b\r1,x\r2,y\r", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("newlines of three kinds", "a,b\r\n1,x\n2,y\r3,z", {"a": ["1", "2", "3"], "b": ["x", "y", "z"]}),
        ("no newline at the end", "a,b\n1,2", {"a": ["1"], "b": ["2"]}),
        ("an empty last field", "a,b\n1,", {"a": ["1"], "b": [None]}),
        ("newlines in a name", '"a\nb",c\n1,2\n', {"a\nb": ["1"], "c": ["2"]}),
        ("names like numbers", "1,1.0\n5,6\n", {"1": ["5"], "1.0": ["6"]}),
        ("names with blanks", " a,a \n5,6\n", {" a": ["5"], "a ": ["6"]}),
        ("names that pandas makes", "a,a.1\n5,6\n", {"a": ["5"], "a.1": ["6"]}),
        ("a name of pandas's index", "Unnamed: 0,__index_level_0__\n5,6\n",
         {"Unnamed: 0": ["5"], "__index_level_0__": ["6"]}),
        ("quotes alone", 'a,b\n"""",""""""\n', {"a": ['"'], "b": ['""']}),
        ("one column of quoted nothing", 'a\n""\nx\n', {"a": ["", "x"]}),
        ("all missing", "a,b\n,\n,\n", {"a": [None, None], "b": [None, None]}),
        ("digits after many missing", "a,b\n" + ",x\n" * 500 + "007,x\n",
         {"a": [None] * 500 + ["007"], "b": ["x"] * 501}),
        ("a word after many numbers", "a,b\n" + "1,x\n" * 500 + "NA,x\n",
         {"a": ["1"] * 500 + ["NA"], "b": ["x"] * 501}),
        ("a fraction after many numbers", "a\n" + "9007199254740993\n" * 500 + "0.5\n",
         {"a": ["9007199254740993"] * 500 + ["0.5"]}),
        ("a comment sign in a field", "a,b\n#1,2\n", {"a": ["#1"], "b": ["2"]}),
        ("zones that differ", "a\n2020-01-01 00:00Z\n2020-01-01 00:00\n",
         {"a": ["2020-01-01 00:00Z", "2020-01-01 00:00"]}),
        ("dates and words", "a\n2020-01-01\nsoon\n", {"a": ["2020-01-01", "soon"]}),
        ("booleans and numbers", "a\nTrue\n1\n", {"a": ["True", "1"]}),
        ("booleans in two ways", "a\nTrue\nfalse\n", {"a": ["True", "false"]}),
    ]  # fmt: skip
    for name, text, columns in sound:
        yield Case(name, text.encode(), columns)


def _encodings() -> Iterator[Case]:
    text = "name,n\nZoë,1\n東京,2\n"
    columns: dict[str, list[Any]] = {"name": ["Zoë", "東京"], "n": ["1", "2"]}
    yield Case("UTF-8", text.encode(), columns)
    yield Case("UTF-8 with its mark", text.encode("utf-8-sig"), columns)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        yield Case(f"{encoding}, unnamed", text.encode(encoding), None)
        yield Case(f"{encoding}, named", text.encode(encoding), columns, options={"encoding": encoding})
    legacy = "name,n\nZoë,1\nJosé,2\n"
    columns = {"name": ["Zoë", "José"], "n": ["1", "2"]}
    for encoding in ("latin-1", "cp1252", "mac-roman"):
        yield Case(f"{encoding}, unnamed", legacy.encode(encoding), None, line=2)
        yield Case(f"{encoding}, named", legacy.encode(encoding), columns, options={"encoding": encoding})
    yield Case("UTF-8 and then latin-1", "a\né\n".encode() + "è\n".encode("latin-1"), None, line=3)
    yield Case("latin-1 in an old Mac's lines", b"a\rb\rc\r\xe9\r", None, line=4)
    yield Case("cut within a character", "a\nx\né".encode()[:-1], None, line=3)
    yield Case("UTF-16 cut within a character", legacy.encode("utf-16")[:-1], None, options={"encoding": "utf-16"})
    yield Case("a surrogate", b"a\n\xed\xa0\x80\n", None, line=2)
    yield Case("an overlong slash", b"a\n\xc0\xaf\n", None, line=2)
    for encoding in ("utf-7", "unicode_escape", "undefined", "punycode", "no-such", "rot13", "a\0b"):
        content = b"a\n+2AA-\n\\ud800\n\xff\n"
        yield Case(f"encoding={encoding!r}", content, None, options={"encoding": encoding}, anywhere=True)


def _choices() -> Iterator[Case]:
    """What the user asks for by name, and no more than that."""
    named = {"missing": ["NA", "-999"]}
    for form, text in (
        ("plain", "NA,-999\n1,2\n"),
        ("quoted", '"NA","-999"\n"1","2"\n'),
        ("padded", "NA , -999\n1,2\n"),
    ):
        columns: dict[str, list[Any]] = {"a": [None, "1"], "b": [None, "2"]}
        yield Case(f"words for missing, {form}", f"a,b\n{text}".encode(), columns, options=named)
    texts = {"a": [None, "x"], "b": ["-999.0", "2"]}
    yield Case("a word for missing in another form", b"a,b\n-999,-999.0\nx,2\n", texts, options=named)
    words = {"a": ["true", "false"], "b": ["1", None]}
    columns = {"a": [None, "true"], "b": ["1", None]}
    text = 'a,b\n"false",1\n"true","false"\n'
    yield Case("one boolean for missing", text.encode(), columns, options={"missing": "false"})
    yield Case("no word for missing", b"a,b\ntrue,1\nfalse,\n", words)
    yield Case("another delimiter", b"a;b\n1,5;2\n", {"a": ["1,5"], "b": ["2"]}, options={"delimiter": ";"})
    yield Case(
        "quotes that quote nothing",
        b'a,b\n1,5" pipe\n',
        {"a": ["1"], "b": ['5" pipe']},
        options={"quoting": False},
    )
    for delimiter in ("", ",,", '"', "\n", "é"):
        yield Case(
            f"delimiter={delimiter!r}", b"a,b\n1,2\n", None, options={"delimiter": delimiter}, anywhere=True
        )


def _json_lines() -> Iterator[Case]:
    def case(name: str, text: str | bytes, columns: dict[str, list[Any]] | None, line: int | None = None) -> Case:
        return Case(name, text.encode() if isinstance(text, str) else text, columns, "t.jsonl", line=line)

    for word in WORDS:
        lines = "".join(json.dumps({"a": each}, ensure_ascii=False) + "\n" for each in (word, "x"))
        yield case(f"{word!r} as JSON text", lines, {"a": [Text(word), Text("x")]})
        lines = "".join(json.dumps({"a": each}) + "\n" for each in (word, word))
        yield case(f"{word!r} as JSON text, twice", lines, {"a": [Text(word)] * 2})
    for number in (
        "1",
        "-0",
        "0.5",
        "1e5",
        "9223372036854775807",
        "1E2",
        "-1.5e-7",
        "5e-324",
        "123456789.123456789",
    ):
        yield case(f"{number} as a JSON number", f'{{"a":{number}}}\n{{"a":null}}\n', {"a": [number, None]})
    for number in ("1e400", "-1e400", "1e-400", "9223372036854775808", "NaN", "Infinity", "-Infinity", "007", "+1",
                   ".5", "5.", "0x10", "1_000", "'1'", "None", "True", "undefined"):  # fmt: skip
        yield case(f"{number} is no JSON value", f'{{"a":1}}\n{{"a":{number}}}\n', None, 2)
    two = ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00"]
    refused: list[tuple[str, str | bytes, int]] = [
        ("a key twice", '{"a":1}\n{"a":1,"a":2}\n', 2),
        ("a key twice, written otherwise", '{"a":1,"\\u0061":2}\n', 1),
        ("kinds that mix", '{"a":1}\n{"a":"1"}\n', 2),
        ("a number after true", '{"a":true}\n{"a":1}\n', 2),
        ("digits lost", '{"a":0.5}\n{"a":9007199254740993}\n', 2),
        ("an array", '[{"a":1}]\n', 1),
        ("a value alone", '{"a":1}\n5\n', 2),
        ("a list in a cell", '{"a":[1]}\n', 1),
        ("an object in a cell", '{"a":{"b":1}}\n', 1),
        ("an object over two lines", '{"a":1}\n{"a":\n2}\n', 2),
        ("two objects in a line", '{"a":1}{"a":2}\n', 1),
        ("two objects in a line, and a blank one", '{"a":1} {"a":2}\n\n{"a":3}\n', 1),
        ("two objects in a line, one over two", '{"a":1}{"a":2}\n{"a":\n3}\n', 1),
        ("a blank line", '{"a":1}\n\n{"a":2}\n', 2),
        ("a comma at the end of a line", '{"a":1},\n{"a":2}\n', 1),
        ("a comma before the brace", '{"a":1,}\n', 1),
        ("single quotes", "{'a':1}\n", 1),
        ("a comment", '{"a":1} // one\n', 1),
        ("a tab within a text", '{"a":"x\ty"}\n', 1),
        ("a newline within a text", '{"a":"x\ny"}\n', 1),
        ("half a surrogate pair", '{"a":"\\ud800"}\n', 1),
        ("an unknown escape", '{"a":"\\x41"}\n', 1),
        ("a byte that is no text", b'{"a":1}\n{"a":"\xff"}\n', 2),
        ("no keys", "{}\n{}\n", 1),
        ("a key without a name", '{"":1}\n', 1),
        ("cut within a text", '{"a":"xyz"}\n{"a":"x', 2),
        ("cut within a number's object", '{"a":12}\n{"a":1', 2),
    ]  # fmt: skip
    for name, text, line in refused:
        yield case(name, text, None, line)
    lines = [json.dumps({"a": each}) for each in two]
    yield case("zones that differ", "\n".join(lines), {"a": [Text(each) for each in two]})
    yield case("a zone", '{"a":"2020-01-01T00:00:00+05:00"}\n', {"a": [Text("2020-01-01T00:00:00+05:00")]})
    yield case("keys in another order", '{"a":1,"b":2}\n{"b":3,"a":4}\n', {"a": ["1", "4"], "b": ["2", "3"]})
    yield case(
        "keys that some lines leave out", '{"a":1}\n{"b":"x"}\n', {"a": ["1", None], "b": [None, Text("x")]}
    )
    yield case("a fraction after many", '{"a":1}\n' * 300 + '{"a":0.5}\n', {"a": ["1"] * 300 + ["0.5"]})
    yield case("DOS newlines", '{"a":1}\r\n{"a":2}\r\n', {"a": ["1", "2"]})
    yield case("a byte-order mark", '\ufeff{"a":1}\n', {"a": ["1"]})
    yield case("a pair of surrogates", '{"a":"\\ud83d\\ude00"}\n', {"a": [Text("😀")]})
    yield case("an escaped zero", '{"a":"x\\u0000y"}\n', {"a": [Text("x\0y")]})


def _compressed() -> Iterator[Case]:
    def case(name: str, content: bytes, columns: Any, line: int | None = None) -> Case:
        return Case(name, content, columns, "t.csv.gz", line=line, anywhere=line is None)

    yield case("gzip", GZIPPED, WHOLE)
    more = gzip.compress(b"200,x200\n", mtime=0)
    longer = {"a": [*WHOLE["a"], "200"], "b": [*WHOLE["b"], "x200"]}
    yield case("two members", GZIPPED + more, longer)
    yield case("empty members between", GZIPPED + gzip.compress(b"") * 50 + more, longer)
    yield case("zeros at the end", GZIPPED + bytes(512), WHOLE)
    yield case("rubbish at the end", GZIPPED + b"rubbish", None)
    yield case("a second member that is cut", GZIPPED + more[:-5], None)
    yield case("a false sum", GZIPPED[:-8] + bytes(4) + GZIPPED[-4:], None)
    yield case("a false length", GZIPPED[:-4] + bytes(4), None)
    yield case("no gzip at all", b"a,b\n1,2\n", None)
    yield case("gzip within gzip", gzip.compress(GZIPPED), None, line=1)
    for end in range(0, len(GZIPPED), 23):
        yield case(f"gzip cut at {end}", GZIPPED[:end], None)


def _parquet() -> Iterator[Case]:
    def case(name: str, content: bytes, columns: Any) -> Case:
        return Case(name, content, columns, "t.parquet", anywhere=True)

    whole = PARQUET.getvalue()
    yield case("Parquet", whole, WHOLE)
    for end in range(0, len(whole), 97):
        yield case(f"Parquet cut at {end}", whole[:end], None)
    yield case("CSV by the name of Parquet", b"a,b\n1,2\n", None)
    yield case("lists", _packed(pa.table({"a": [[1], [2]]})), None)
    yield case("bytes", _packed(pa.table({"a": [b"x", b"y"]})), None)
    yield case("bytes of one length", _packed(pa.table({"a": pa.array([b"x", b"y"], pa.binary(1))})), None)
    yield case("no name", _packed(pa.table({"": [1], "b": [2]})), None)
    yield case("no rows", _packed(pa.table({"a": pa.array([], pa.int64())})), None)
    large = [2**53 + 1, None, 2**63 - 1]
    yield case("whole numbers with a missing one", _packed(pa.table({"a": large})), {"a": large})
    yield case(
        "up to 2^64", _packed(pa.table({"a": pa.array([2**64 - 1, None], pa.uint64())})), {"a": [2**64 - 1, None]}
    )
    yield case(
        "texts like numbers",
        _packed(pa.table({"a": ["007", None, "NA", ""]})),
        {"a": [Text("007"), None, Text("NA"), ""]},
    )


def _deep() -> Iterator[Case]:
    lists = '{"a":' + "[" * 10**6 + "]" * 10**6 + "}\n"
    yield Case("lists a million deep", lists.encode(), None, "t.jsonl", line=1)
    objects = '{"a":1}\n' + '{"a":' * 10**6 + "1" + "}" * 10**6 + "\n"
    yield Case("objects a million deep", objects.encode(), None, "t.jsonl", line=2)


def _bombs() -> Iterator[Case]:
    zeros = gzip.compress(b"a\n") + gzip.compress(b"0" * 10**7) * 30
    yield Case("300 MB in 300 kB", zeros, None, "t.csv.gz", anywhere=True)
    members = gzip.compress(b"a\n") + gzip.compress(b"") * 100_000 + gzip.compress(b"1\n")
    yield Case("100,000 members", members, {"a": ["1"]}, "t.csv.gz")
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["x" * 1000])
    yield Case("one text a million times", _packed(pa.table({"a": many})), None, "t.parquet", anywhere=True)
    run = pa.array([0], pa.int8()).take(pa.array([0] * 1_000_000, pa.int8())).cast(pa.int64())
    wide = _packed(pa.table({f"c{position}": run for position in range(40)}))
    yield Case("one number forty million times", wide, None, "t.parquet", anywhere=True)
    lines = "".join(f'{{"k{position}":1}}\n' for position in range(20_000))
    yield Case("20,000 keys, each on one line", lines.encode(), None, "t.jsonl", anywhere=True)


def _packed(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, store_schema=False)
    return out.getvalue()


def _wide() -> Iterator[Case]:
    names = [f"c{position}" for position in range(10_000)]
    columns = {name: ["1", "007"] for name in names}
    row, other = ",".join(["1"] * 10_000), ",".join(["007"] * 10_000)
    yield Case("10,000 columns", f"{','.join(names)}\n{row}\n{other}\n".encode(), columns)
    yield Case("10,000 columns, one short", f"{','.join(names)}\n{row}\n{other[:-4]}\n".encode(), None, line=3)
    same = [*names[:-1], names[0]]
    yield Case("10,000 columns, one twice", f"{','.join(same)}\n{row}\n".encode(), None, line=1)
