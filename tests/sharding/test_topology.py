"""Names of machines, without the compilers that know them."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, use_abstract_mesh

from sharding import topology as topologies
from sharding.topology import KINDS, abstract_device, topology

NAMES = {"v5p:2x2x1": "tpu", "v6e:2x2": "tpu", "tpu7x:4x4x4": "tpu", "h200:1": "cuda", "h200:4x8": "cuda"}
NAMES |= {"v5p:4x4x4@2": "tpu"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_device_to_trace_for(name):
    device = abstract_device(name)
    assert device.platform == NAMES[name]
    assert device == KINDS[name.split(":")[0]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "h200"])
def test_pallas_knows_every_kind_of_tpu(kind):
    from jax.experimental.pallas import tpu as pltpu

    with use_abstract_mesh(AbstractMesh((), (), abstract_device=KINDS[kind])):
        info = pltpu.get_tpu_info()
    assert info.chip_version.value == {"v5p": "v5p", "v6e": "v6e", "tpu7x": "7x"}[kind]
    assert info.num_cores == KINDS[kind].num_cores


def test_a_program_can_be_lowered_for_a_device_that_is_not_there():
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=abstract_device("h200:1"))):
        lowered = jax.jit(lambda x: x + 1).trace(jnp.ones(8)).lower(lowering_platforms=("cuda",))
    assert "stablehlo.add" in lowered.as_text()


UNKNOWN = ["v5p", "v5p:4", "v6e:2x2x1", "v6e:2x", "h200:", "h200:0", "h200:1x2x4", "a100:8", ""]


@pytest.mark.parametrize("name", [*UNKNOWN, "h200:4x8@2", "v6e:2x2@"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    for ask in (abstract_device, topology):
        with pytest.raises(ValueError, match=r"got '.*'; allowed are names like v5p:2x2x1, .*h200:4x8"):
            ask(name)


@pytest.mark.parametrize(("name", "extra"), [("v5p:2x2x1", "tpu"), ("h200:8", "cuda")])
def test_a_missing_compiler_is_named_with_the_extra_that_brings_it(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=rf"needs the compiler of the extra '{extra}'.*\.\[{extra}\].*make aot"):
        topology(name)


def test_what_the_compiler_objects_to_is_passed_on(monkeypatch):
    def refuse(name, slices):
        raise RuntimeError("INVALID_ARGUMENT: no such machine\nand a trace")

    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module)
    monkeypatch.setattr(topologies, "_tpus", refuse)
    with pytest.raises(ValueError, match=r"v6e:3x5 cannot be made: INVALID_ARGUMENT: no such machine$"):
        topology("v6e:3x5")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
@pytest.mark.parametrize(("name", "num"), [("v5p:2x2x1", 4), ("v6e:2x2", 4), ("tpu7x:2x2x1", 8), ("v5p:2x2x1@2", 8)])
def test_tpu_devices_are_what_their_name_says(name, num):
    made = topology(name)
    assert len(made.devices) == num
    assert {device.device_kind for device in made.devices} == {made.abstract_device.device_kind}
    assert {device.num_cores for device in made.devices} == {made.abstract_device.num_cores}


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra cuda")
@pytest.mark.parametrize(("name", "hosts", "num"), [("h200:1", 1, 1), ("h200:4x8", 4, 32)])
def test_gpu_devices_are_what_their_name_says(name, hosts, num):
    made = topology(name)
    assert len(made.devices) == num
    assert len({device.process_index for device in made.devices}) == hosts
    assert {device.device_kind for device in made.devices} == {made.abstract_device.device_kind}
