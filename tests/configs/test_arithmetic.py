import pytest

from configs.arithmetic import get_config
from train.build import check
from train.phases import read_sections
from train.sections import completed


@pytest.mark.parametrize(
    ("variant", "phases", "objective"),
    [
        ("", ("imitate", "attempt"), "grpo"),
        ("bond", ("imitate", "attempt"), "bond"),
        ("warp", ("imitate", "attempt", "retry"), "grpo"),
    ],
)
def test_every_variant_can_be_run_and_tries_from_what_was_imitated(variant, phases, objective):
    config = completed(get_config(variant))
    settings, found = read_sections(config)
    check(config)
    assert settings.phases == phases
    for name in phases[1:]:
        assert (found[name].objective, found[name].init, found[name].teacher) == (objective, "phase:imitate", "imitate")


def test_another_variant_is_refused():
    with pytest.raises(ValueError, match="no variant 'ppo'; allowed: bond, warp"):
        get_config("ppo")
