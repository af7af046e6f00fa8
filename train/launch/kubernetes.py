"""A run as a JobSet: one indexed Job for each slice, one pod for each host, all made anew where one of them is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from train.launch.settings import KubernetesSettings

PORT = 8476
_GKE = "cloud.google.com"
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def jobset(settings: KubernetesSettings, command: Sequence[str]) -> dict[str, Any]:
    """The manifest that `kubectl apply` takes (jobset.x-k8s.io/v1alpha2).

    Exit code 1 is the user's mistake and ends the JobSet; any other loss restarts all of it, up to `restarts` times.
    """
    metadata: dict[str, Any] = {"name": settings.name}
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    if settings.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": settings.queue}
    if settings.tpu and settings.slices > 1:  # a slice is a node pool, and each has one Job to itself
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": f"{_GKE}/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": settings.restarts,
                "restartStrategy": "BlockingRecreate",  # never two incarnations that write the same checkpoints
                "rules": [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "host", "replicas": settings.slices, "template": job(settings, command)}],
        },
    }


def job(settings: KubernetesSettings, command: Sequence[str]) -> dict[str, Any]:
    """The template of the Jobs (batch/v1)."""
    return {
        "spec": {
            "parallelism": settings.nodes,
            "completions": settings.nodes,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "train", "operator": "In", "values": [1]},
                    }
                ]
            },
            "template": {"spec": _pod(settings, command)},
        }
    }


def _pod(settings: KubernetesSettings, command: Sequence[str]) -> dict[str, Any]:
    volumes = [_volume(index, mount) for index, mount in enumerate(settings.mounts)]
    volumes.append(({"name": "shm", "emptyDir": {"medium": "Memory"}}, {"name": "shm", "mountPath": "/dev/shm"}))
    container = {
        "name": "train",
        "image": settings.image,
        "workingDir": settings.directory,
        "command": list(command),
        "env": _environment(settings),
        "resources": _resources(settings),
        "volumeMounts": [mount for _, mount in volumes],
    }
    if not settings.tpu and settings.nodes > 1:
        container["ports"] = [{"containerPort": PORT}]
    pod = {
        "restartPolicy": "Never",  # the JobSet restarts all pods together
        "terminationGracePeriodSeconds": settings.grace,
        "containers": [container],
        "volumes": [volume for volume, _ in volumes],
    }
    if selector := _selector(settings):
        pod["nodeSelector"] = selector
    if settings.gpus_per_node:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _environment(settings: KubernetesSettings) -> list[dict[str, Any]]:
    """GKE tells TPU hosts of each other; others are told here, without any right to ask the cluster."""
    place: list[dict[str, Any]] = []
    if settings.tpu and settings.nodes * settings.slices > 1:
        place = [{"name": "KINEMA_COORDINATOR", "value": "auto"}]
    elif settings.nodes > 1:
        first = f"{settings.name}-host-0-0.{settings.name}"
        place = [
            {"name": "KINEMA_COORDINATOR", "value": f"{first}:{PORT}"},
            {"name": "KINEMA_PROCESS_COUNT", "value": str(settings.nodes)},
            {"name": "KINEMA_PROCESS_INDEX", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
        ]
    given = {"PYTHONUNBUFFERED": "1", **settings.variables}
    return [*place, *({"name": name, "value": value} for name, value in given.items())]


def _resources(settings: KubernetesSettings) -> dict[str, Any]:
    devices = {
        "google.com/tpu": settings.tpus_per_node if settings.tpu else 0,
        "nvidia.com/gpu": settings.gpus_per_node,
    }
    limits = {name: str(count) for name, count in devices.items() if count}
    requests = {name: amount for name, amount in (("cpu", settings.cpu), ("memory", settings.memory)) if amount}
    return {name: found for name, found in (("limits", limits), ("requests", requests)) if found}


def _selector(settings: KubernetesSettings) -> dict[str, str]:
    labels = dict(label.split("=", 1) for label in settings.node_selector)
    if settings.tpu:
        labels |= {f"{_GKE}/gke-tpu-accelerator": settings.tpu, f"{_GKE}/gke-tpu-topology": settings.topology}
    return labels


def _volume(index: int, mount: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume of the pod and where the container sees it."""
    source, _, target = mount.partition(":")
    name = f"mount-{index}"
    if source.startswith("/"):
        return {"name": name, "hostPath": {"path": source}}, {"name": name, "mountPath": target}
    return {"name": name, "persistentVolumeClaim": {"claimName": source}}, {"name": name, "mountPath": target}
