"""JobSets for GPUs and TPUs: what they say, and that they fit the published schemas."""

from __future__ import annotations

import copy

import pytest

from train.launch.kubernetes import jobset
from train.launch.schemas import can_validate, validate
from train.launch.settings import KubernetesSettings

COMMAND = ["python", "-m", "train", "--config=configs/demo.py", "--workdir=/data/run"]
GPU = KubernetesSettings(
    name="demo",
    image="registry/kinema:1",
    nodes=4,
    gpus_per_node=8,
    env=("NCCL_DEBUG=INFO",),
    mounts=("data-claim:/data", "/scratch:/fast"),
    cpu="64",
    memory="900Gi",
    namespace="robots",
    queue="research",
    service_account="trainer",
    node_selector=("pool=h200",),
    restarts=7,
    grace=300,
)
TPU = KubernetesSettings(image="i", tpu="tpu-v5p-slice", topology="4x4x4", nodes=16, slices=2)
needs_schemas = pytest.mark.skipif(not can_validate(), reason="kubernetes-validate is not installed")


def pod(settings: KubernetesSettings) -> dict:
    (replicated,) = jobset(settings, COMMAND)["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]


def environment(settings: KubernetesSettings) -> dict:
    return {variable["name"]: variable for variable in pod(settings)["containers"][0]["env"]}


@needs_schemas
@pytest.mark.parametrize("settings", [GPU, TPU, KubernetesSettings(image="i")], ids=["gpu", "tpu", "one-cpu"])
def test_a_jobset_fits_the_published_schemas(settings):
    assert validate(jobset(settings, COMMAND)).startswith("1.")


@needs_schemas
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "failurePolicy", "maxRestarts"), "7", "spec.failurePolicy.maxRestarts: '7' is not of type 'integer'"),
        (("spec", "restarts"), 7, "spec: Additional properties are not allowed"),
        (("metadata", "name"), "My_Run", "metadata.name: 'My_Run' does not match"),
        (("spec", "replicatedJobs", 0, "template", "spec", "completion"), 4, "replicatedJobs.0.template"),
        (("spec", "replicatedJobs", 0, "template", "spec", "backoffLimit"), "0", "backoffLimit"),
    ],
)
def test_the_check_sees_unknown_fields_and_wrong_types_in_and_around_the_jobs(path, value, message):
    manifest = copy.deepcopy(jobset(GPU, COMMAND))
    section = manifest
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        validate(manifest)


def test_one_pod_for_each_host_knows_its_index_and_where_the_first_one_is():
    manifest = jobset(GPU, COMMAND)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    told = environment(GPU)
    assert told["KINEMA_COORDINATOR"]["value"] == "demo-host-0-0.demo:8476"
    assert told["KINEMA_PROCESS_COUNT"]["value"] == "4"
    assert "job-completion-index" in told["KINEMA_PROCESS_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert told["NCCL_DEBUG"]["value"] == "INFO"


def test_a_mistake_ends_the_jobset_and_any_other_loss_restarts_all_of_it():
    manifest = jobset(GPU, COMMAND)
    policy = manifest["spec"]["failurePolicy"]
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (7, "BlockingRecreate")
    assert policy["rules"][0]["action"] == "FailJobSet"
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1]
    assert (pod(GPU)["restartPolicy"], pod(GPU)["terminationGracePeriodSeconds"]) == ("Never", 300)


def test_gpus_memory_and_mounts_are_asked_for():
    (container,) = pod(GPU)["containers"]
    assert container["resources"] == {
        "limits": {"nvidia.com/gpu": "8"},
        "requests": {"cpu": "64", "memory": "900Gi"},
    }
    seen = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert seen == {"mount-0": "/data", "mount-1": "/fast", "shm": "/dev/shm"}
    volumes = {volume.pop("name"): volume for volume in pod(GPU)["volumes"]}
    assert volumes["mount-0"] == {"persistentVolumeClaim": {"claimName": "data-claim"}}
    assert volumes["mount-1"] == {"hostPath": {"path": "/scratch"}}
    assert pod(GPU)["nodeSelector"] == {"pool": "h200"}
    assert pod(GPU)["serviceAccountName"] == "trainer"


def test_a_tpu_slice_is_a_job_on_a_node_pool_of_its_own():
    manifest = jobset(TPU, COMMAND)
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    assert "exclusive-topology" in next(iter(manifest["metadata"]["annotations"]))
    assert pod(TPU)["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x4"
    assert pod(TPU)["containers"][0]["resources"] == {"limits": {"google.com/tpu": "4"}}
    told = environment(TPU)
    assert told["KINEMA_COORDINATOR"]["value"] == "auto"
    assert "KINEMA_PROCESS_INDEX" not in told


def test_a_single_pod_has_no_peers_to_find():
    assert "KINEMA_COORDINATOR" not in environment(KubernetesSettings(image="i", gpus_per_node=8))
