"""The KubeRay manifests say what KubeRay accepts, and agree with each other; nothing is started.

They are held against the part of KubeRay's API that they use, written down here, and against KubeRay's own CRDs if
KUBERAY_CRDS names a folder with them (docs/clusters.md).
"""

import os
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from lorafleet_serve.replicas.serve_args import ServeArgs

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "deploy" / "kuberay"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
RAY_FILES = ["raycluster.yaml", "rayjob.yaml", "rayservice.yaml"]


def documents(name):
    return list(yaml.safe_load_all((KUBERAY / name).read_text()))


def ray_cluster(document):
    spec = document["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pod_templates(document):
    if document["kind"] in ("Deployment", "StatefulSet"):
        return [document["spec"]["template"]]
    if not document["kind"].startswith("Ray"):
        return []
    cluster = ray_cluster(document)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


EVERY = [(path.name, document) for path in sorted(KUBERAY.glob("*.yaml")) for document in documents(path.name)]
PODS = [template for _, document in EVERY for template in pod_templates(document)]
CONTAINERS = [container for template in PODS for container in template["spec"]["containers"]]


def an(required="", **properties):
    return {
        "type": "object", "additionalProperties": False, "required": required.split(), "properties": properties,
    }  # fmt: skip


def some(item):
    return {"type": "array", "minItems": 1, "items": item}


TEXT, COUNT, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
WORDS = {"type": "object", "additionalProperties": TEXT}
KEY = an("name key", name=TEXT, key=TEXT)
AMOUNTS = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9.]+(m|Mi|Gi)?$"}}
PROBE = {
    **an(httpGet=an("port", path=TEXT, port=COUNT), exec=an("command", command=some(TEXT)), periodSeconds=COUNT,
         timeoutSeconds=COUNT, initialDelaySeconds=COUNT),
    "minProperties": 1,
}  # fmt: skip
RESOURCES = an("requests limits", requests=AMOUNTS, limits=AMOUNTS)
CONTAINER = an(
    "name image resources securityContext", name=TEXT, image=TEXT, command=some(TEXT),
    env=some({**an("name", name=TEXT, value=TEXT, valueFrom=an(secretKeyRef=KEY)), "minProperties": 2}),
    envFrom=some(an(configMapRef=an("name", name=TEXT))),
    ports=some(an("containerPort", name=TEXT, containerPort=COUNT)),
    resources=RESOURCES, readinessProbe=PROBE, livenessProbe=PROBE,
    securityContext=an(allowPrivilegeEscalation={"const": False}, capabilities=an(drop={"const": ["ALL"]})),
    volumeMounts=some(an("name mountPath", name=TEXT, mountPath=TEXT)),
)  # fmt: skip
POD = an(
    "metadata spec",
    metadata=an("labels", labels=WORDS),
    spec=an(
        "containers securityContext", containers=some(CONTAINER), terminationGracePeriodSeconds=COUNT,
        securityContext=an(
            "runAsNonRoot", runAsNonRoot={"const": True}, runAsUser=COUNT, runAsGroup=COUNT, fsGroup=COUNT
        ),
        tolerations=some(an(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT)),
        volumes=some(an("name", name=TEXT, persistentVolumeClaim=an(claimName=TEXT), configMap=an(name=TEXT))),
    ),
)  # fmt: skip
CLUSTER = an(
    "rayVersion authOptions headGroupSpec workerGroupSpecs", rayVersion={"const": RAY},
    authOptions=an("mode secretName", mode={"const": "token"}, secretName=TEXT), enableInTreeAutoscaling=YES,
    autoscalerOptions=an(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources=RESOURCES),
    headGroupSpec=an("rayStartParams template", rayStartParams=WORDS, template=POD),
    workerGroupSpecs=some(an(
        "groupName replicas minReplicas maxReplicas rayStartParams template", groupName=TEXT, replicas=COUNT,
        minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=WORDS, template=POD,
    )),
)  # fmt: skip
SPECS = {
    "RayCluster": CLUSTER,
    "RayJob": an("entrypoint rayClusterSpec", entrypoint=TEXT, shutdownAfterJobFinishes=YES, backoffLimit=COUNT,
                 ttlSecondsAfterFinished=COUNT, rayClusterSpec=CLUSTER),
    "RayService": an("serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=CLUSTER),
}  # fmt: skip


def fits(document):
    head = {"apiVersion": {"const": "ray.io/v1"}, "kind": TEXT, "metadata": an("name", name=TEXT, labels=WORDS)}
    jsonschema.validate(document, an("apiVersion spec", spec=SPECS[document["kind"]], **head))


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_ray_manifest_uses_keys_that_kuberay_knows(name):
    for document in documents(name):
        fits(document)


@pytest.mark.parametrize("template", PODS)
def test_a_pod_is_confined(template):
    jsonschema.validate(template, POD)


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_misspelt_key_is_refused(name):
    document = documents(name)[0]
    head = ray_cluster(document)["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["volumeMount"] = head.pop("volumeMounts")
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        fits(document)


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names a folder with KubeRay's CRDs")
@pytest.mark.parametrize("name", RAY_FILES)
def test_a_ray_manifest_fits_kuberays_own_crd(name):
    def strict(part):  # the API server drops unknown keys in silence; here they are errors
        if isinstance(part, list):
            return [strict(one) for one in part]
        if not isinstance(part, dict):
            return part
        closed = {"additionalProperties": False} if isinstance(part.get("properties"), dict) and "type" in part else {}
        return closed | {key: strict(value) for key, value in part.items()}

    (document,) = documents(name)
    path = Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{document['kind'].lower()}s.yaml"
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    jsonschema.Draft7Validator(strict(schema)).validate(document)


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_head_trains_nothing_and_workers_take_gpus(name):
    cluster = ray_cluster(documents(name)[0])
    parameters = cluster["headGroupSpec"]["rayStartParams"]
    assert (parameters["num-cpus"], parameters["num-gpus"]) == ("0", "0")
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert workers["minReplicas"] == workers["replicas"] <= workers["maxReplicas"]


def test_a_pod_has_longer_to_go_than_its_lanes():
    (drain,) = (
        one["data"]["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        for _, one in EVERY
        if "LORAFLEET_HOME" in str(one.get("data"))
    )
    for name in RAY_FILES:
        for template in pod_templates(documents(name)[0]):
            assert template["spec"]["terminationGracePeriodSeconds"] > float(drain)


def test_the_ray_manifests_differ_only_where_they_must():
    heads = [ray_cluster(documents(name)[0])["headGroupSpec"]["template"] for name in RAY_FILES]
    for head in heads:
        del head["spec"]["containers"][0]["ports"]
    assert heads[0] == heads[1] == heads[2]


def test_what_a_pod_names_is_there():
    made = {(document["kind"], document["metadata"]["name"]) for _, document in EVERY}
    common = (KUBERAY / "common.yaml").read_text()
    for container in CONTAINERS:
        assert container["image"] == f"registry.example.com/lorafleet:{VERSION}" or "postgres:17." in container["image"]
        for source in container.get("envFrom", []):
            assert ("ConfigMap", source["configMapRef"]["name"]) in made
        for variable in container["env"]:
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            assert secret is None or f"generic {secret['name']} " in common
            assert secret is None or f"--from-literal={secret['key']}=" in common
    assert "--from-literal=auth_token=" in common, "KubeRay reads the token under this name"
    for template in PODS:
        for volume in template["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert ("PersistentVolumeClaim", claim) in made or ("ConfigMap", volume["configMap"]["name"]) in made


def test_command_lines_in_the_manifests_are_understood(tmp_path, parses):
    (job,) = documents("rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    manifest = tmp_path / Path(words[2]).name
    manifest.touch()
    parses([*words[:2], str(manifest), *words[3:]])
    for container in CONTAINERS:
        if "command" in container:
            parses(container["command"])


def test_the_service_serves_what_serve_yaml_serves():
    from ray.serve.schema import ServeDeploySchema

    (service,) = documents("rayservice.yaml")
    told = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(told)
    (application,) = told["applications"]
    here = yaml.safe_load((ROOT / "serve" / "serve.yaml").read_text())["applications"][0]
    for key in ("name", "route_prefix", "import_path"):
        assert application[key] == here[key]
    args = ServeArgs.model_validate(application["args"])
    assert args.device == "cuda"
    assert args.max_replicas == service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"]
