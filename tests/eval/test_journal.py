"""Records survive a kill, and a folder holds those of one setting."""

from __future__ import annotations

import pytest

from eval.journal import RecordFile, keep_settings, read_records


def test_records_are_read_as_they_were_written_without_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "deep" / "records.jsonl"
    assert read_records(path) == []
    with RecordFile(path) as file:
        file.append([{"id": "ä", "n": 1.5}, {"id": "b", "n": None}])
    with path.open("ab") as file:
        file.write(b'{"id": "c", "n"')
    assert read_records(path) == [{"id": "ä", "n": 1.5}, {"id": "b", "n": None}]
    with RecordFile(path) as file:
        file.append([{"id": "d"}])
    assert [record["id"] for record in read_records(path)] == ["ä", "b", "d"]


def test_other_settings_are_refused_by_name_and_leave_the_folder_as_it_is(tmp_path):
    keep_settings(tmp_path, {"seed": 1, "shape": (2, 3)})
    keep_settings(tmp_path, {"seed": 1, "shape": [2, 3]})
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=r"--at .* holds answers for other settings: extra, seed; give another folder"):
        keep_settings(tmp_path, {"seed": 2, "shape": (2, 3), "extra": 0}, "--at")
    assert (tmp_path / "settings.json").read_bytes() == before
