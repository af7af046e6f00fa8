import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from train.initialise import copy_parameters
from train.stored import StoredArray, stored


def trees():
    source = {"stack": {"a": np.ones((2, 3)), "b": np.full(4, 2.0)}, "head": np.full((3, 3), 5.0)}
    target = {"stack": {"a": jnp.zeros((2, 3)), "b": jnp.zeros(5)}, "value": jnp.zeros((3, 3))}
    return source, target


def test_equal_paths_and_shapes_are_copied_and_everything_else_is_listed():
    result, report = copy_parameters(*trees())
    np.testing.assert_array_equal(result["stack"]["a"], 1)
    np.testing.assert_array_equal(result["stack"]["b"], 0)
    assert report.copied == (("stack/a", "stack/a"),)
    assert report.fresh == (("stack/b", "shape (4,) there, (5,) here"), ("value", "no value there"))
    assert report.unused == ("head", "stack/b")
    assert report.summary().startswith("1 parameters copied, 2 fresh, 2 unused\n  fresh: stack/b (shape (4,) there")


def test_rules_rename_subtrees_and_leave_the_rest_fresh():
    result, report = copy_parameters(*trees(), rules=(("head", "value"),))
    np.testing.assert_array_equal(result["value"], 5)
    np.testing.assert_array_equal(result["stack"]["a"], 0)
    assert report.copied == (("head", "value"),)
    assert ("stack/a", "no copy rule") in report.fresh


def test_a_prefix_is_a_whole_path_component():
    source, target = {"stack2": np.ones(3)}, {"stack2": jnp.zeros(3)}
    with pytest.raises(ValueError, match="takes no parameter over"):
        copy_parameters(source, target, rules=(("stack", "stack"),))


def test_a_rule_that_copies_nothing_is_refused_even_if_others_do():
    with pytest.raises(ValueError, match=r"copy \[\('gone', 'stack'\)\] takes no parameter over"):
        copy_parameters(*trees(), rules=(("head", "value"), ("gone", "stack")))


def test_a_copy_takes_the_dtype_of_its_place():
    result, _ = copy_parameters({"a": np.ones(3, np.float64)}, {"a": jnp.zeros(3, jnp.bfloat16)})
    assert result["a"].dtype == jnp.bfloat16


def test_a_table_that_may_grow_keeps_its_own_rows_after_those_that_are_copied():
    source, target = {"table": np.ones((2, 3)), "other": np.ones((2, 3))}, {"table": jnp.zeros((4, 3))}
    result, report = copy_parameters(source, target, may_grow={"table"})
    np.testing.assert_array_equal(result["table"], [[1] * 3] * 2 + [[0] * 3] * 2)
    assert (report.copied, report.fresh) == ((("table", "table"),), (("table[2:]", "no such rows there"),))
    with pytest.raises(ValueError, match=r"table \(shape \(2, 3\) there, \(4, 3\) here\)"):
        copy_parameters(source, target)  # only where it is asked for
    with pytest.raises(ValueError, match="takes no parameter over"):
        copy_parameters({"table": np.ones((5, 3))}, target, may_grow={"table"})  # nothing shrinks


def saved(folder, **items):
    """What of a checkpoint `stored` looks at."""
    with ocp.StandardCheckpointer() as writer:
        for name, tree in items.items():
            writer.save(folder / name, tree)
    return SimpleNamespace(path=folder, refuse_broken=lambda item: None)


def test_a_checkpoint_is_read_one_array_at_a_time(tmp_path, monkeypatch):
    params = {"stack": {str(i): {"w": jnp.full((4, 3), i, jnp.float32)} for i in range(6)}}
    checkpoint, read, at_once = saved(tmp_path, params=params), [], []
    whole = StoredArray.read

    def counted(array):
        content = whole(array)
        at_once.append(sum(ref() is not None for ref in read))
        read.append(weakref.ref(content))
        return content

    monkeypatch.setattr(StoredArray, "read", counted)
    target = jax.tree.map(lambda leaf: jnp.full(leaf.shape, -1, jnp.bfloat16), params)
    result, report = copy_parameters(stored(checkpoint, "weights"), target, rules=(("stack", "stack"),))
    assert jax.tree.all(jax.tree.map(np.array_equal, result, params))
    assert len(report.copied) == len(read) == 6
    assert max(at_once) == 0, "an array was still in memory when the next was read"


def test_averaged_weights_are_taken_where_there_are_any(tmp_path):
    old, new = {"a": {"b": jnp.zeros(2)}}, {"a": {"b": jnp.ones(2)}}
    checkpoint = saved(tmp_path, params=old, ema=new)
    np.testing.assert_array_equal(np.asarray(stored(checkpoint, "weights")["a"]["b"]), 1)
    assert stored(checkpoint, "buffers") == {}
