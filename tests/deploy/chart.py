"""The Helm chart: rendered by the real Helm, and what it renders held against Kubernetes' schemas,
against itself and against Candor."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dockerfile
import helm_python
import image
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from container import Container, Mount
from dockerfile import ROOT
from report import Report, Skipped

CHART = ROOT / "deploy/helm/candor"
RULES = ROOT / "deploy/prometheus/rules"
# The oldest that the chart asks for, and the newest that the validator knows.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
OPERATORS: dict[str, Any] = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}
Json = dict[str, Any]


def value_sets() -> dict[str, Json]:
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    named = {file.name.removesuffix("-values.yaml"): file for file in files}
    return {"default": {}} | {
        name: yaml.safe_load(file.read_text()) for name, file in named.items()
    }


@functools.cache
def copied() -> "tempfile.TemporaryDirectory[str]":
    """The chart with copies in place of links, on which Helm remarks each time."""
    folder = tempfile.TemporaryDirectory()
    shutil.copytree(CHART, Path(folder.name, "candor"))
    return folder


@contextlib.contextmanager
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(Path(copied().name, "candor")) as loaded:
        yield loaded


class Rendered:
    """Objects of one set of values, by kind and name."""

    def __init__(self, values: Json) -> None:
        with chart() as loaded:
            loaded.validate_schema(values)
            self.values = loaded.merge_values(values)
            texts = loaded.render(values, name="release", namespace="vision")
        self.notes = next(text for name, text in texts.items() if name.endswith("NOTES.txt"))
        self.objects: dict[tuple[str, str], Json] = {}
        for name, text in texts.items():
            if name.endswith(".yaml"):
                for item in filter(None, yaml.load_all(text, Loader=UniqueLoader)):
                    key = (item["kind"], item["metadata"]["name"])
                    assert key not in self.objects, f"{key} is there twice"
                    self.objects[key] = item
        self.workload = next(
            item
            for (kind, _), item in self.objects.items()
            if kind in ("Deployment", "StatefulSet")
        )
        self.template = self.workload["spec"]["template"]
        [self.pod] = self.template["spec"]["containers"]

    def of(self, kind: str) -> list[Json]:
        return [item for (kind_, _), item in self.objects.items() if kind_ == kind]

    def config(self) -> str:
        [found] = self.of("ConfigMap")
        return found["data"]["candor.toml"]


class UniqueLoader(yaml.SafeLoader):
    """Refuses a key that a template wrote twice, which YAML's readers pass over."""


def unique(loader: UniqueLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key is there twice: {keys} {node.start_mark}"
    return loader.construct_mapping(node, deep=True)


UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique)


def lint() -> str:
    found = helm_python.lint(CHART)
    # Chart.yaml has no icon, which Helm remarks on.
    worse = [message for message in found["messages"] if message["severity"] > 1]
    assert not worse and not found["errors"], f"{worse} {found['errors']}"
    with helm_python.Chart.load(CHART) as loaded, tempfile.TemporaryDirectory() as folder:
        package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        assert loaded.metadata["appVersion"] == package["version"], "appVersion is not Cargo.toml's"
        with helm_python.Chart.load(loaded.save(folder)) as packed:
            names = {file["name"] for file in packed.files}
        rules = {f"rules/{file.name}" for file in RULES.glob("*.y*ml")}
        assert rules and rules <= names, f"the package lacks rules: {sorted(names)}"
    return f"by Helm {helm_python.helm_sdk_version()}"


def validate(rendered: Rendered) -> str:
    for (kind, name), item in rendered.objects.items():
        if kind in OPERATORS:
            # Unknown fields are passed over by its reader: they would be missing here.
            read = OPERATORS[kind].model_validate(item)
            again = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
            assert again == item, f"{kind} {name} has fields that the operator does not know"
        elif kind == "InferencePool":
            validate_pool(item)
        else:
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = "/".join(map(str, error.path))
                    raise AssertionError(
                        f"{kind} {name}, {version}: {where}: {error.message}"
                    ) from error
    kinds = sorted({kind for kind, _ in rendered.objects})
    return f"{len(rendered.objects)} objects: {', '.join(kinds)}"


def validate_pool(item: Json) -> None:
    """By hand, after the reference of inference.networking.k8s.io/v1: no package has its schema."""
    assert item["apiVersion"] == "inference.networking.k8s.io/v1"
    spec = item["spec"]
    assert set(spec) == {"selector", "targetPorts", "endpointPickerRef"}, spec
    assert set(spec["selector"]) == {"matchLabels"}
    assert all(set(port) == {"number"} for port in spec["targetPorts"])
    picker = spec["endpointPickerRef"]
    assert set(picker) == {"kind", "name", "port", "failureMode"} and set(picker["port"]) == {
        "number"
    }


def selected(labels: Json, selector: Json) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def references(rendered: Rendered) -> None:
    """Whatever names another object, a label or a port names one that is there."""
    labels, spec = rendered.template["metadata"]["labels"], rendered.template["spec"]
    ports = {port["name"]: port["containerPort"] for port in rendered.pod["ports"]}
    selectors = [
        item["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget", "InferencePool")
        for item in rendered.of(kind)
    ]
    selectors += [item["spec"]["selector"] for item in rendered.of("Service")]
    selectors += [
        item["spec"]["podSelector"]["matchLabels"] for item in rendered.of("NetworkPolicy")
    ]
    for selector in selectors:
        assert selected(labels, selector), f"{selector} does not select the pods, {labels}"
    # It cannot be changed: with a version in it, no upgrade would be possible.
    stable = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert set(rendered.workload["spec"]["selector"]["matchLabels"]) == stable, (
        "a selector must be stable"
    )
    [service] = rendered.of("Service")
    for port in service["spec"]["ports"]:
        assert port["targetPort"] in ports, f"no port {port['targetPort']} in the pod"
    served = {port["name"] for port in service["spec"]["ports"]}
    for monitor in rendered.of("ServiceMonitor"):
        matched = monitor["spec"]["selector"]["matchLabels"]
        own = service["metadata"]["labels"]
        assert selected(own, matched), f"{matched} does not select the service"
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= served
        assert own[monitor["spec"]["jobLabel"]] == "candor", "rules expect the job candor"
    for policy in rendered.of("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            assert {port["port"] for port in rule["ports"]} <= set(ports)
    for pool in rendered.of("InferencePool"):
        numbers = {port["number"] for port in pool["spec"]["targetPorts"]}
        assert numbers == {ports["http"]}, "requests go to the API"
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in rendered.objects
        assert "replicas" not in rendered.workload["spec"], "it would be set back at each upgrade"
    if rendered.workload["kind"] == "StatefulSet":
        assert rendered.workload["spec"]["serviceName"] == service["metadata"]["name"]
    if rendered.values["serviceAccount"]["create"]:
        assert ("ServiceAccount", spec["serviceAccountName"]) in rendered.objects
    volumes(rendered, spec)


def volumes(rendered: Rendered, spec: Json) -> None:
    named = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["name"] for mount in rendered.pod["volumeMounts"]}
    assert mounts == set(named), f"mounted {sorted(mounts)}, volumes {sorted(named)}"
    config = named["config"]["configMap"]["name"]
    assert ("ConfigMap", config) in rendered.objects
    claim = named["data"].get("persistentVolumeClaim", {}).get("claimName")
    own = rendered.values["persistence"]
    assert (claim is not None) == own["enabled"]
    if claim:
        made = ("PersistentVolumeClaim", claim) in rendered.objects
        assert made != bool(own["existingClaim"]), f"claim {claim}"


def pod_is_safe(rendered: Rendered) -> str:
    spec, pod = rendered.template["spec"], rendered.pod
    stages = dockerfile.chain(dockerfile.load(), "cpu")
    [user] = [rest for stage in stages for rest in stage.all("USER")]
    assert spec["securityContext"]["runAsUser"] == int(user), "the image has another user"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    own = pod["securityContext"]
    assert own["readOnlyRootFilesystem"] is True and own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert not rendered.of("Secret"), "secrets are by reference only"
    for variable in pod["env"]:
        secret = variable["name"] in ("CANDOR_FEEDBACK__STORE", "AWS_SECRET_ACCESS_KEY")
        assert not secret or "secretKeyRef" in variable["valueFrom"], variable
    drain = tomllib.loads(rendered.config())["server"]["drain_deadline_s"]
    wait = pod["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = spec["terminationGracePeriodSeconds"]
    assert grace > wait + drain, f"{grace} s for {wait} s of waiting and {drain} s of draining"
    paths = {
        probe: pod[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "readiness", "liveness")
    }
    ready = "/health/ready"
    assert paths == {"startup": ready, "readiness": ready, "liveness": "/health/live"}
    ports = {port["name"] for port in pod["ports"]}
    assert {pod[f"{probe}Probe"]["httpGet"]["port"] for probe in paths} <= ports
    return f"{grace} s to end: {wait} s + {drain} s + {grace - wait - drain} s"


def features(name: str, rendered: Rendered) -> None:
    """What the set of values is there for."""
    kinds = {kind for kind, _ in rendered.objects}
    limits = rendered.pod["resources"]["limits"]
    config = tomllib.loads(rendered.config())
    labels = rendered.template["metadata"]["labels"]
    variables = {variable["name"] for variable in rendered.pod["env"]}
    engine = "inference.networking.k8s.io/engine-type"
    if name == "default":
        assert kinds == {
            *("ConfigMap", "PersistentVolumeClaim", "PodDisruptionBudget"),
            *("Service", "ServiceAccount", "StatefulSet"),
        }, kinds
        assert engine not in labels and "nvidia.com/gpu" not in limits
    elif name == "postgres-s3":
        assert rendered.workload["kind"] == "Deployment"
        assert config["feedback"]["images"] == "s3://candor-photographs/candor"
        assert {"CANDOR_FEEDBACK__STORE", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT"} <= variables
        assert "CANDOR_API_KEY_FILE" not in variables
        assert [key["name"] for key in config["keys"]] == ["accessibility-app", 'annotators "EU"']
        assert config["keys"][1]["thresholds"] == {"object": 0.5}
    elif name == "gpu":
        assert limits["nvidia.com/gpu"] == 1 and config["model"]["device"] == "cuda:0"
        assert rendered.pod["image"].endswith("-cuda")
        [toleration] = rendered.template["spec"]["tolerations"]
        assert toleration["key"] == "nvidia.com/gpu"
    elif name == "autoscaling":
        [scaler] = rendered.of("HorizontalPodAutoscaler")
        [metric] = scaler["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == "candor_requests_waiting"
        assert labels[engine] == "vllm" and config["metrics"]["vllm_names"] is True
        assert {"InferencePool", "ServiceMonitor", "PrometheusRule"} <= kinds
    elif name == "networkpolicy":
        [policy] = rendered.of("NetworkPolicy")
        allowed = [peer for rule in policy["spec"]["egress"] for peer in rule["to"]]
        assert {"podSelector": {"matchLabels": {"app": "postgres"}}} in allowed
        assert rendered.pod["image"].startswith("registry.example.org/candor@sha256:")
    else:
        raise AssertionError(f"{name}: nothing says what it is for")


def accepted(rendered: Rendered, binary: Path) -> str:
    """Candor finds nothing wrong with the configuration and the environment of the pod."""
    stand_ins = {"CANDOR_FEEDBACK__STORE": "postgres://candor:secret@postgres/candor"}
    env = {"PATH": os.environ["PATH"]}
    for variable in rendered.pod["env"]:
        name = variable["name"]
        env[name] = variable.get("value") or stand_ins.get(name, "stand-in")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "candor.toml")
        file.write_text(rendered.config())
        # The model and the device of the values need not be on this machine.
        env |= {"CANDOR_MODEL__NAME": "candor-mini", "CANDOR_MODEL__DEVICE": "cpu"}
        command = [str(binary), "doctor", "--json", "--config", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.stdout, done.stderr.strip()
    problems = json.loads(done.stdout)["config_problems"]
    assert not problems, json.dumps(problems)
    options = tomllib.loads(rendered.config())
    return f"by candor doctor: {', '.join(sorted(options))}"


def refused() -> str:
    cases = yaml.safe_load((Path(__file__).parent / "refused.yaml").read_text())
    for case in cases:
        try:
            Rendered(case["values"])
        except helm_python.HelmError as error:
            said = str(error).replace("'", "").replace("/", ".")
            wanted = case["says"].replace("'", "").replace("/", ".").strip(".")
            assert wanted in said, f"{case['values']} is refused with {error}"
        else:
            raise AssertionError(f"{case['values']} is accepted")
    return f"{len(cases)} sets of wrong values"


def rules() -> str:
    files = sorted(RULES.glob("*.y*ml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    with chart() as loaded:
        text = loaded.render({"prometheusRule": {"enabled": True}})[
            "candor/templates/monitoring.yaml"
        ]
    [item] = [item for item in yaml.safe_load_all(text) if item]
    assert item["spec"]["groups"] == groups, "the rules are not those of deploy/prometheus/rules"
    if shutil.which("promtool") is None:
        raise Skipped("promtool is not installed")
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": item["spec"]["groups"]}, file)
        file.flush()
        done = subprocess.run(
            ["promtool", "check", "rules", file.name], capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{sum(len(group['rules']) for group in groups)} rules, by promtool"


def pod_serves(container: Container) -> str:
    """The pod of the default values, its configuration and key mounted, asked by its own probes."""
    rendered = Rendered({})
    [config], pod = rendered.of("ConfigMap"), rendered.pod
    context = rendered.template["spec"]["securityContext"]
    key = container.run([*container.image.entrypoint, "keys", "new"]).stdout.splitlines()[0]
    sources = {"config": {"candor.toml": config["data"]["candor.toml"]}, "api-key": {"key": key}}
    mounts = []
    for mount in pod["volumeMounts"]:
        name = f"pod-{mount['name']}"
        folder = container.volume(name)
        folder.mkdir(parents=True)
        for file, text in sources.get(mount["name"], {}).items():
            (folder / file).write_text(text)
        # As the kubelet does for fsGroup.
        container.admin("chown", "-R", f"0:{context['fsGroup']}", str(folder))
        container.admin("chmod", "-R", "g+rwX,o-rwx", str(folder))
        mounts.append(Mount(mount["mountPath"], str(folder), mount.get("readOnly", False)))
    env = {variable["name"]: variable["value"] for variable in pod["env"]}
    command = [*container.image.entrypoint, *pod["args"]]
    ports = {port["name"]: port["containerPort"] for port in pod["ports"]}
    with container.mounted(mounts), container.running(command, env) as server:
        server.wait_until_healthy()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            get = pod[probe]["httpGet"]
            url = f"http://127.0.0.1:{ports[get['port']]}{get['path']}"
            assert container.fetch(url)[0] == 200, url
        status, metrics = container.fetch(f"http://127.0.0.1:{ports['operations']}/metrics")
        # The metric that the autoscaler asks for.
        assert status == 200 and "\ncandor_requests_waiting " in metrics
        url = f"{image.SERVER}/v1/chat/completions"
        assert container.fetch(url, key, image.question())[0] == 200
        assert server.stop() == 0, server.log()[-800:]
    assert (container.volume("pod-data") / "candor-data/feedback.db").exists()
    return "with its mounts, user and read-only root; by its probes"


def check(report: Report, binary: Path, container: Container | None) -> None:
    report.run("chart: lint and package", lint)

    def about(check: Callable[[Rendered], str | None], values: Json) -> Callable[[], str | None]:
        return lambda: check(Rendered(values))

    for name, values in value_sets().items():
        report.run(f"chart: {name}: valid", about(validate, values))
        report.run(f"chart: {name}: references", about(references, values))
        report.run(f"chart: {name}: security, draining, probes", about(pod_is_safe, values))
        report.run(f"chart: {name}: purpose", about(functools.partial(features, name), values))
        report.run(
            f"chart: {name}: configuration accepted",
            about(lambda it: accepted(it, binary), values),
        )
    report.run("chart: wrong values are refused", refused)
    report.run("chart: rules of Prometheus", rules)
    if container is not None and container.image.entrypoint:
        report.run("chart: the default pod serves", lambda: pod_serves(container))
