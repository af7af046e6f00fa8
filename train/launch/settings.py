"""What each target of `python -m train.launch` can be told: one dataclass each, checked as a config section is."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # of a Kubernetes object (RFC 1035), which every target takes


def option(default: Any, words: str) -> Any:
    """A field with what its help says."""
    return dataclasses.field(default=default, metadata={"help": words})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every target takes."""

    env: tuple[str, ...] = option((), "NAME=VALUE that every process gets; may be given again and again")
    python: str = option("python", "the interpreter that has the packages")

    def __post_init__(self):
        for variable in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", variable, re.DOTALL):
                raise ValueError(f"env has {variable!r}; write NAME=VALUE")

    @property
    def variables(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.env)

    @property
    def num_devices(self) -> int | None:
        """Of all processes together; None where only the machines know."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSettings(Settings):
    """Processes on this machine."""

    python: str = option("", "the interpreter; this one if not given")
    processes: int = option(1, "how many")
    devices: int | None = option(None, "of each process: virtual ones on a CPU, GPUs elsewhere; None = an equal share")
    platform: Literal["auto", "cpu", "cuda"] = option("auto", "what the devices are; auto = GPUs where there are any")
    restarts: int = option(5, "in a row that bring no new checkpoint, after which the run is given up")

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, processes=1, restarts=0)
        if self.devices is not None:
            _at_least(self, devices=1)

    @property
    def num_devices(self) -> int | None:
        return None if self.devices is None else self.processes * self.devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSettings(Settings):
    """What targets on other machines take."""

    name: str = option("kinema", "of the job")
    directory: str = option(".", "the working folder on the machines, which holds the code")
    restarts: int = option(50, "of a job that was preempted or lost a process, before it is given up")
    grace: int = option(120, "seconds from SIGTERM to SIGKILL, in which a checkpoint is written")

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, restarts=0, grace=1)
        if not NAME.fullmatch(self.name) or len(self.name) > 40:
            raise ValueError(
                f"name is {self.name!r}; it must be 1 to 40 small letters, digits and '-', the first one a letter"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmSettings(ClusterSettings):
    """A job under SLURM."""

    nodes: int = option(1, "how many")
    gpus_per_node: int = option(0, "GPUs of a node; 0 = CPUs only")
    tasks_per_node: int | None = option(None, "processes of a node; None = one for each GPU, or one")
    cpus_per_task: int | None = option(None, "cores of a process")
    memory: str = option("", "of a node, as in 500G; the cluster's default if not given")
    time: str = option("", "limit, as in 2-00:00:00; the partition's if not given")
    partition: str = option("", "")
    account: str = option("", "")
    qos: str = option("", "")
    image: str = option("", "container image; needs the pyxis plugin")
    mounts: tuple[str, ...] = option((), "SOURCE:TARGET in the container; may be given again")
    sbatch: tuple[str, ...] = option((), "any other line for sbatch, as in --constraint=h200; may be given again")

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, nodes=1, gpus_per_node=0)
        for field in ("tasks_per_node", "cpus_per_task"):
            if getattr(self, field) is not None:
                _at_least(self, **{field: 1})
        if self.gpus_per_node and self.tasks not in (1, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node is {self.tasks}; with gpus_per_node {self.gpus_per_node} it must be "
                f"{self.gpus_per_node} (one process for each GPU) or 1 (one for all of them)"
            )
        if self.mounts and not self.image:
            raise ValueError(f"mounts is {self.mounts}, which has no effect without image; set image or remove it")
        _check_mounts(self.mounts)
        for line in self.sbatch:
            if not line.startswith("-") or "\n" in line:
                raise ValueError(f"sbatch has {line!r}; write an option of sbatch, as in --constraint=h200")

    @property
    def tasks(self) -> int:
        """Processes of a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def num_devices(self) -> int | None:
        return self.nodes * self.gpus_per_node or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class KubernetesSettings(ClusterSettings):
    """A JobSet of one pod for each host."""

    directory: str = option("/app", "the working folder in the image, which holds the code")
    image: str = option("", "container image with the code and its packages")
    nodes: int = option(1, "hosts; of one slice for TPUs")
    gpus_per_node: int = option(0, "GPUs of a host; 0 where TPUs are asked for, or CPUs only")
    tpu: str = option("", "accelerator label of GKE's nodes, as in tpu-v5p-slice")
    topology: str = option("", "chips of a TPU slice, as in 4x4x4")
    tpus_per_node: int = option(4, "TPU chips of a host")
    slices: int = option(1, "TPU slices")
    cpu: str = option("", "cores of a pod, as in 32")
    memory: str = option("", "of a pod, as in 400Gi")
    mounts: tuple[str, ...] = option((), "CLAIM:/PATH or /HOST/PATH:/PATH; may be given again")
    namespace: str = option("", "the current one of kubectl if not given")
    queue: str = option("", "of Kueue")
    service_account: str = option("", "")
    node_selector: tuple[str, ...] = option((), "LABEL=VALUE of the nodes to use; may be given again")

    def __post_init__(self):
        super().__post_init__()
        _at_least(self, nodes=1, gpus_per_node=0, tpus_per_node=1, slices=1)
        if not self.image:
            raise ValueError("image is not given; name a container image with the code and its packages")
        if bool(self.tpu) != bool(self.topology):
            raise ValueError(f"tpu is {self.tpu!r} and topology {self.topology!r}; give both, or neither")
        if self.tpu:
            self._check_topology()
        elif self.slices > 1:
            raise ValueError(f"slices is {self.slices}, which only TPUs have; set tpu and topology, or use nodes")
        for label in self.node_selector:
            if not re.fullmatch(r"[^=\s]+=[^=\s]*", label):
                raise ValueError(f"node_selector has {label!r}; write LABEL=VALUE")
        _check_mounts(self.mounts)

    @property
    def num_devices(self) -> int | None:
        if self.tpu.startswith("tpu7x"):
            return 2 * self.slices * self.nodes * self.tpus_per_node  # JAX has two devices a chip
        return (
            (self.slices * self.nodes * self.tpus_per_node) if self.tpu else (self.nodes * self.gpus_per_node or None)
        )

    def _check_topology(self) -> None:
        if self.gpus_per_node:
            raise ValueError(f"gpus_per_node is {self.gpus_per_node} but tpu is {self.tpu!r}; remove one of them")
        if not re.fullmatch(r"\d+x\d+(x\d+)?", self.topology):
            raise ValueError(f"topology is {self.topology!r}; write chips along each side, as in 4x4x4")
        chips = 1
        for side in self.topology.split("x"):
            chips *= int(side)
        if chips != self.nodes * self.tpus_per_node:
            raise ValueError(
                f"nodes is {self.nodes}; topology {self.topology} has {chips} chips, which are "
                f"{chips / self.tpus_per_node:g} hosts of tpus_per_node {self.tpus_per_node}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuSettings(ClusterSettings):
    """The workers of a TPU VM or a queued resource."""

    pod: str = option("", "name of the TPU VM")
    zone: str = option("", "as in us-east5-a")
    project: str = option("", "the current one of gcloud if not given")

    def __post_init__(self):
        super().__post_init__()
        for field in ("pod", "zone"):
            if not getattr(self, field):
                raise ValueError(f"{field} is not given; `gcloud compute tpus tpu-vm list --zone=ZONE` tells it")


TARGETS: dict[str, type[Settings]] = {
    "local": LocalSettings,
    "slurm": SlurmSettings,
    "kubernetes": KubernetesSettings,
    "tpu": TpuSettings,
}


def _at_least(section: object, **bounds: int) -> None:
    for name, bound in bounds.items():
        if getattr(section, name) < bound:
            raise ValueError(f"{name} is {getattr(section, name)}; it must be at least {bound}")


def _check_mounts(mounts: tuple[str, ...]) -> None:
    for mount in mounts:
        source, _, target = mount.partition(":")
        if not source or not target.startswith("/"):
            raise ValueError(f"mounts has {mount!r}; write SOURCE:TARGET with a target that begins with '/'")
