from benchmarks.processes import LAYOUTS, ROWS, get_config, prepare
from train.build import check
from train.sections import completed


def test_the_config_of_both_layouts_is_one_that_trains(tmp_path):
    prepare(tmp_path)
    check(completed(get_config(str(tmp_path))))
    for count, devices in LAYOUTS.values():
        assert ROWS % (count * devices) == 0
