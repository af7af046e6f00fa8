import gzip
import json
import pathlib

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module
from hypothesis import given
from hypothesis import strategies as st

from data.elements import CorruptRecord
from data.records import TextFiles
from data.tf_example import bytes_feature

C4 = pathlib.Path(__file__).parents[3] / "shared/data/c4_en_mini"
DOCUMENTS = ["First.\n", "Zweites, größer.", "三"]


def _bytes(field: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + value


def _example(**features: bytes) -> bytes:
    entries = (_bytes(1, k.encode()) + _bytes(2, _bytes(1, _bytes(1, v))) for k, v in features.items())
    return _bytes(1, b"".join(_bytes(1, entry) for entry in entries))


def _write_array_record(path: pathlib.Path, records: list[bytes]) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _write(folder: pathlib.Path, name: str) -> dict[str, str]:
    """Writes DOCUMENTS and returns the settings that read them."""
    path = folder / name
    if name == "a.txt":
        path.write_bytes("|".join(DOCUMENTS).encode())
        return {"separator": "|"}
    if name == "a.jsonl":
        path.write_text("\n".join(json.dumps({"n": 1, "story": d}, ensure_ascii=False) for d in DOCUMENTS))
        return {"field": "story"}
    if name == "a.jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps({"text": d}) + "\n" for d in DOCUMENTS).encode()))
        return {}
    if name == "a.parquet":
        pq.write_table(pa.table({"n": [1, 2, 3], "story": DOCUMENTS}), path)
        return {"field": "story"}
    if name == "raw.array_record":
        _write_array_record(path, [d.encode() for d in DOCUMENTS])
        return {"field": ""}
    _write_array_record(path, [_example(url=b"u", text=d.encode()) for d in DOCUMENTS])
    return {}


NAMES = ("a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet", "raw.array_record", "a.array_record-00000-of-00001")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_documents_locally_and_from_a_url(tmp_path, name):
    settings = _write(tmp_path, name)
    assert list(TextFiles((str(tmp_path / name),), **settings)) == DOCUMENTS
    with fsspec.open(f"memory://corpus/{name}", "wb") as file:
        file.write((tmp_path / name).read_bytes())
    assert list(TextFiles((f"memory://corpus/{name}",), **settings)) == DOCUMENTS


def test_globs_and_lists_are_sorted_and_read_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    files = TextFiles((str(tmp_path / "*.txt"), str(tmp_path / "a.txt"), str(tmp_path / "c.md")))
    assert list(files) == ["a.txt", "b.txt", "c.md"]


def test_a_text_file_is_one_document_and_keeps_every_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\ntwo\n")
    assert list(TextFiles((str(tmp_path / "a.txt"),))) == ["one\r\n\r\ntwo\n"]


def test_the_fingerprint_follows_contents_not_places(tmp_path):
    for folder, text in (("x", "same"), ("y", "same"), ("z", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
    x, y, z = (TextFiles((str(tmp_path / f / "*.txt"),)).fingerprint() for f in "xyz")
    assert x == y != z


def test_paths_that_name_nothing_are_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "what.bin").write_text("x")
    for path, match in (
        ("gone.txt", "no file"),
        ("*.txt.gz", "no file"),
        ("", "is a folder"),
        ("empty.txt", "is empty"),
    ):
        with pytest.raises(ValueError, match=match):
            list(TextFiles((str(tmp_path / path),)))
    with pytest.raises(ValueError, match="set format to one of txt, jsonl"):
        list(TextFiles((str(tmp_path / "what.bin"),)))
    with pytest.raises(ValueError, match=r"format must be .*'xml'"):
        TextFiles(("a.xml",), format="xml")
    with pytest.raises(ValueError, match="paths is empty"):
        TextFiles(())


def test_a_bad_record_is_named_and_the_others_are_read(tmp_path):
    bad, good = b"\xff\xfe", b"fine"
    (tmp_path / "a.txt").write_bytes(b"|".join([good, bad, good]))
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": \n{"text": "fine"}')
    _write_array_record(tmp_path / "a.array_record", [_example(text=t) for t in (good, bad, good)])
    binary = pa.array([good, bad, good], pa.binary())
    strings = pa.StringArray.from_buffers(3, *binary.buffers()[1:])
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    for name, where in (
        ("a.txt", "record 1"),
        ("a.jsonl", "line 2"),
        ("a.array_record", "record 1"),
        ("a.parquet", "record 1"),
    ):
        files = TextFiles((str(tmp_path / name),), separator="|")
        first, middle, last = files
        assert (first, last) == ("fine", "fine")
        assert isinstance(middle, CorruptRecord)
        assert str(middle).startswith(f"{tmp_path / name}, {where}: ")
        with pytest.raises(CorruptRecord):
            list(files.texts())


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet", "raw.array_record"])
def test_a_truncated_file_is_named(tmp_path, name):
    settings = _write(tmp_path, name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    *_, error = TextFiles((str(tmp_path / name),), **settings)
    assert isinstance(error, CorruptRecord)
    assert name in str(error)
    assert "is the file complete?" in str(error)


def test_a_missing_column_or_feature_is_named_with_those_there_are(tmp_path):
    _write(tmp_path, "a.parquet")
    with pytest.raises(ValueError, match="no column 'text' but n, story"):
        list(TextFiles((str(tmp_path / "a.parquet"),)))
    with pytest.raises(ValueError, match=r"no feature 'text'.*has label, url"):
        bytes_feature(_example(url=b"u", label=b"l"), "text")


@given(st.binary(max_size=400), st.text(max_size=200))
def test_the_example_reader_finds_any_value(value, other):
    example = _example(other=other.encode(), text=value)
    assert bytes_feature(example, "text") == value
    # Unknown fields of every wire type are passed over: varint, 64 bits, bytes, 32 bits.
    assert (
        bytes_feature(b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x22\x01x" + b"\x2d" + bytes(4) + example, "text")
        == value
    )


@given(st.binary(max_size=60))
def test_the_example_reader_refuses_what_is_no_example(junk):
    with pytest.raises(ValueError):
        bytes_feature(junk, "text")


@pytest.mark.skipif(not C4.exists(), reason="the C4 sample is not here")
def test_real_c4_shards_give_their_thousand_documents():
    texts = list(TextFiles((str(C4 / "c4-train.array_record-*"),)).texts())
    assert len(texts) == 1000
    assert texts[0].startswith("Posted on April 12, 2018 by admin")
