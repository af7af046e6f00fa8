"""Every form in which compilers write who talks to whom."""

import numpy as np
import pytest

from sharding.plan.groups import axes_between, groups_of, pairs_of, pattern_of

MESH = {"data": 2, "fsdp": 2, "context": 2}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, to_apply=%add", [[0, 1], [2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8], dims", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dims", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}, x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ],
)
def test_groups_of_every_form(text, groups):
    found = groups_of(text, 8)
    assert found is not None
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(groups, axis=0))


def test_no_groups_and_no_pairs_are_none():
    assert groups_of("channel_id=1", 8) is None
    assert pairs_of("channel_id=1") is None


def test_a_form_that_is_not_known_is_named():
    with pytest.raises(ValueError, match=r"unknown form: \[4\]\(odd\)"):
        groups_of("replica_groups=[4](odd)", 4)


@pytest.mark.parametrize(
    ("along", "pattern"),
    [
        ([(i, (i + 1) % 4) for i in range(4)], "ring"),
        ([(i, (i - 1) % 4) for i in range(4)], "ring"),
        ([(i, i + 1) for i in range(3)], "shift"),
        ([(i, i - 2) for i in range(2, 4)], "shift"),
        ([(1, 2), (2, 3), (3, 1)], "shuffle"),  # even chunks on their way to a zigzag
        ([(0, 1), (1, 3), (2, 2), (3, 0)], "shuffle"),
    ],
)
def test_a_permutation_along_an_axis_is_a_ring_a_shift_or_a_shuffle(along, pattern):
    """On each of two rows of a mesh, outer and inner axis alike."""
    inner = [(4 * row + a, 4 * row + b) for row in range(2) for a, b in along]
    assert pattern_of(np.array(inner), {"data": 2, "context": 4}) == pattern
    outer = [(2 * a + row, 2 * b + row) for row in range(2) for a, b in along]
    assert pattern_of(np.array(outer), {"context": 4, "tensor": 2}) == pattern


def test_a_permutation_along_two_axes_is_a_shuffle():
    assert pattern_of(np.array([(0, 3), (3, 0)]), {"data": 2, "context": 2}) == "shuffle"


def test_pairs_leave_out_who_stays():
    np.testing.assert_array_equal(pairs_of("source_target_pairs={{0,1},{1,0},{2,2}}, x"), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1]], ("context",)),
        ([[0, 4], [1, 5]], ("data",)),
        ([[0, 2, 4, 6], [1, 3, 5, 7]], ("data", "fsdp")),
        ([list(range(8))], ("data", "fsdp", "context")),
        ([[0, 7]], ("data", "fsdp", "context")),
    ],
)
def test_axes_are_those_along_which_members_differ(groups, axes):
    assert axes_between(np.array(groups), MESH) == axes
