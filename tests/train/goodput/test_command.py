import json

import pytest
from PIL import Image

from tests.train.goodput.runs import write_run
from train.goodput.__main__ import main


def test_the_command_prints_the_account_and_writes_json_and_a_picture(tmp_path, capsys):
    write_run(tmp_path)
    main([str(tmp_path)])
    told = capsys.readouterr().out
    assert "lost work" in told
    assert "the others wait for rank 1" in told
    assert "goodput 37.3%" in told
    (phase,) = json.loads((tmp_path / "goodput.json").read_text())["phases"]
    assert (phase["phase"], phase["seconds"]["lost work"], phase["stragglers"]) == ("pretrain", 7, [1])
    with Image.open(tmp_path / "goodput.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert (0x17, 0x80, 0x3D) in colours  # productive


def test_results_go_where_they_are_wanted(tmp_path):
    write_run(tmp_path / "run")
    main([str(tmp_path / "run"), "--out", str(tmp_path / "report")])
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"goodput.json", "goodput.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"pretrain"}


def test_a_folder_that_is_no_run_is_one_line_and_status_1(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* holds no <phase>/events; give the --workdir of a run"):
        main([str(tmp_path)])
