"""Which devices a collective joins, and along which axes of the mesh: read from every form the compiler writes them in.

    replica_groups={{0,1},{2,3}}            lists
    replica_groups=[4,2]<=[2,4]T(1,0)       an iota, reshaped and transposed
    replica_groups=mesh['a'=2,'b'=4] {'b'}  axes of a mesh, whole or as 'b':(2)2, the part of size 2 inside one of 2
    source_target_pairs={{0,1},{1,2}}       of a permutation

Numbers are places in the program's list of devices, that is in `mesh.devices.flat`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

_MOST_PAIRS = 4096  # of a permutation that are looked at: all that have the same form are alike


def groups_of(attributes: str, num_devices: int) -> np.ndarray | None:
    """int[groups, devices of each]; None where an instruction names none. No groups at all means one of everybody."""
    found = re.search(r"replica_groups=", attributes)
    if not found:
        return None
    text = attributes[found.end() :]
    if text.startswith("{"):
        lists = re.match(r"\{((?:\{[\d,]*\},?)*)\}", text)
        members = (
            [[int(x) for x in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", lists[1])] if lists else []
        )
        return np.array(members or [list(range(num_devices))])
    if text.startswith("["):
        return _iota(text)
    if text.startswith("mesh["):
        return _of_mesh(text)
    raise ValueError(f"replica_groups have an unknown form: {text[:80]}")


def pairs_of(attributes: str) -> np.ndarray | None:
    """int[pairs, 2] of source and target, without those that stay where they are."""
    found = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes)
    if not found:
        return None
    pairs = re.findall(r"\{(\d+),(\d+)\}", found[1])[:_MOST_PAIRS]
    return np.array([(int(a), int(b)) for a, b in pairs if a != b], int).reshape(-1, 2)


def axes_between(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the devices of a group differ, outermost first."""
    coordinates = np.unravel_index(groups, tuple(mesh_shape.values()))  # an array as `groups` for each axis
    return tuple(axis for axis, c in zip(mesh_shape, coordinates, strict=True) if (c != c[:, :1]).any())


def pattern_of(pairs: np.ndarray, mesh_shape: Mapping[str, int]) -> str:
    """How a permutation moves along one axis: `ring`, each to its neighbour and the last to the first; `shift`, all by
    the same distance, with open ends; `shuffle`, anything else. Of an axis of two, any exchange is a ring."""
    moved = [axis for axis in axes_between(pairs, mesh_shape) if mesh_shape[axis] > 1]
    if len(moved) != 1:
        return "shuffle"
    coordinates = np.unravel_index(pairs, tuple(mesh_shape.values()))[list(mesh_shape).index(moved[0])]
    steps, size = coordinates[:, 1] - coordinates[:, 0], mesh_shape[moved[0]]
    if (steps == steps[0]).all():
        return "shift"
    return "ring" if (steps % size == 1).all() or (steps % size == size - 1).all() else "shuffle"


def _iota(text: str) -> np.ndarray:
    found = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not found:
        raise ValueError(f"replica_groups have an unknown form: {text[:80]}")
    shape, dims, order = ([int(x) for x in part.split(",")] if part else None for part in found.groups())
    assert shape
    assert dims
    return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape)


def _of_mesh(text: str) -> np.ndarray:
    found = re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*?)\)(?=\s*\{))?\s*\{(.*?)\}", text)
    if not found:
        raise ValueError(f"replica_groups have an unknown form: {text[:80]}")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
    used = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found[3])
    devices = np.arange(math.prod(sizes.values()))
    if found[2]:  # an order of their own
        devices = _iota(found[2]).reshape(-1) if "<=" in found[2] else np.array(re.findall(r"\d+", found[2]), int)
    dims: list[tuple[int, bool]] = []  # (size, used) of every axis, cut where only a part of it is used
    for name, size in sizes.items():
        done = 1
        for below, part in sorted((int(b or 1), int(p or size)) for axis, b, p in used if axis == name):
            dims += [(below // done, False), (part, True)]
            done = below * part
        dims.append((size // done, False))
    order = sorted(range(len(dims)), key=lambda i: dims[i][1])
    size = math.prod(size for size, taken in dims if taken)
    return devices.reshape([size for size, _ in dims]).transpose(order).reshape(-1, size)
