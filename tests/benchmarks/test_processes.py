from benchmarks.processes import LAYOUTS, get_config, prepare
from train.build import check
from train.sections import completed


def test_the_config_of_both_layouts_is_one_that_trains(tmp_path):
    prepare(tmp_path)
    config = completed(get_config(str(tmp_path)))
    check(config)
    for count, devices in LAYOUTS.values():
        assert config.phases.train.pipeline.batch_size % (count * devices) == 0
