"""Who may talk to whom: the policies evaluated as Kubernetes does, for the connections that matter."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from tests.k8s import manifests
from tests.k8s.manifests import ALL, SCALED, WITH_GPU, Tree, ray_container

RAY_PORTS = (6379, 8076, 8265, 10001, 44217, 52365, 10002, 19999)
PRIVATE = (
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "0.0.0.1",
    "224.0.0.1",
    "::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "fd00:ec2::254",
    "fe80::1",
)
PUBLIC = ("93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700::1111")


@dataclass(frozen=True)
class Peer:
    """A pod of a namespace, or an address outside the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: dict[str, str] | None = None
    """Labels of a namespace that is not ours."""
    address: str | None = None


ENTRY = Peer(namespace={"sluice-access": "entry"})
PROMETHEUS = Peer(namespace={"sluice-access": "metrics"})
COLLECTOR = Peer(namespace={"sluice-access": "traces"})
OPERATOR = Peer({"app.kubernetes.io/component": "kuberay-operator"}, {"kubernetes.io/metadata.name": "kuberay-system"})
STRANGER = Peer({"app": "stranger"}, {"kubernetes.io/metadata.name": "default"})
DNS = Peer({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
REDIS = Peer({"app.kubernetes.io/component": "redis"})
DOWNLOAD = Peer({"app.kubernetes.io/component": "model-download", "sluice-internet": "yes"})


def ray_pod(name: str, group: str) -> Peer:
    """A pod of Ray with the labels that the operator gives it, and those of its template."""
    role = "head" if group == "headgroup" else "worker"
    template = manifests.pod_templates(name)["head" if role == "head" else group]
    own = {"ray.io/is-ray-node": "yes", "ray.io/group": group, "ray.io/node-type": role}
    return Peer(template["metadata"]["labels"] | own)


def selects(selector: Tree | None, labels: dict[str, str]) -> bool:
    assert selector is not None
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def is_peer(entry: Tree, peer: Peer) -> bool:
    if "ipBlock" in entry:
        if peer.address is None or ip_address(peer.address).version != ip_network(entry["ipBlock"]["cidr"]).version:
            return False
        blocked = entry["ipBlock"].get("except", [])
        inside = ip_address(peer.address) in ip_network(entry["ipBlock"]["cidr"])
        return inside and not any(ip_address(peer.address) in ip_network(block) for block in blocked)
    if peer.address is not None:
        return False
    if "namespaceSelector" in entry:
        chosen = peer.namespace is not None and selects(entry["namespaceSelector"], peer.namespace)
    else:
        chosen = peer.namespace is None
    return chosen and ("podSelector" not in entry or selects(entry["podSelector"], peer.labels))


def allowed(name: str, direction: str, pod: Peer, other: Peer, port: int) -> bool:
    """Whether a policy lets `pod` take part: as the server (`ingress`) or as the client (`egress`) of `other`."""
    applying = [
        policy["spec"]
        for policy in manifests.of_kind(name, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], pod.labels) and direction.title() in policy["spec"]["policyTypes"]
    ]
    if not applying:
        return True
    side = "from" if direction == "ingress" else "to"
    for rule in (rule for spec in applying for rule in spec.get(direction, [])):
        if "ports" in rule and port not in {entry["port"] for entry in rule["ports"]}:
            continue
        if side not in rule or any(is_peer(entry, other) for entry in rule[side]):
            return True
    return False


def media_group(name: str) -> str:
    return "media" if "media" in manifests.worker_groups(name) else "entry"


@pytest.mark.parametrize("name", ALL)
def test_media_workers_reach_public_hosts_on_the_ports_of_the_web(name: str) -> None:
    pod = ray_pod(name, media_group(name))
    for address in PUBLIC:
        assert allowed(name, "egress", pod, Peer(address=address), 80)
        assert allowed(name, "egress", pod, Peer(address=address), 443)
        assert not allowed(name, "egress", pod, Peer(address=address), 22)


@pytest.mark.parametrize("name", ALL)
def test_media_workers_reach_no_private_address(name: str) -> None:
    for address in PRIVATE:
        for port in (80, 443, 53, 8000, 6379):
            assert not allowed(name, "egress", ray_pod(name, media_group(name)), Peer(address=address), port), address


@pytest.mark.parametrize("name", WITH_GPU)
def test_gpu_and_entry_workers_reach_nothing_outside(name: str) -> None:
    for group in ("gpu", "entry"):
        for address in PUBLIC + PRIVATE:
            for port in (53, 80, 443, 8080):
                assert not allowed(name, "egress", ray_pod(name, group), Peer(address=address), port), (group, address)


@pytest.mark.parametrize("name", ALL)
def test_nobody_but_the_operator_speaks_to_the_dashboard_and_nobody_to_the_client_port(name: str) -> None:
    for group in ("headgroup", *manifests.worker_groups(name)):
        for peer in (ENTRY, STRANGER, PROMETHEUS, OPERATOR, Peer(address="93.184.216.34"), Peer(address="10.0.0.1")):
            for port in (8265, 10001):
                expected = group == "headgroup" and peer is OPERATOR and port == 8265
                assert allowed(name, "ingress", ray_pod(name, group), peer, port) == expected, (group, peer, port)


@pytest.mark.parametrize("name", ALL)
def test_rays_own_ports_are_closed_to_everyone_else(name: str) -> None:
    for group in ("headgroup", *manifests.worker_groups(name)):
        for port in (6379, 8076, 52365, 10002, 19999):
            for peer in (ENTRY, STRANGER, OPERATOR, Peer(address="10.0.0.1")):
                assert not allowed(name, "ingress", ray_pod(name, group), peer, port), (group, peer, port)


@pytest.mark.parametrize("name", ALL)
def test_rays_nodes_reach_each_other_on_every_port(name: str) -> None:
    groups = ("headgroup", *manifests.worker_groups(name))
    for one in groups:
        for other in groups:
            for port in RAY_PORTS:
                assert allowed(name, "egress", ray_pod(name, one), ray_pod(name, other), port)
                assert allowed(name, "ingress", ray_pod(name, other), ray_pod(name, one), port)


@pytest.mark.parametrize("name", [name for name in ALL if name != "incremental"])
def test_requests_come_in_at_the_entry_group_only(name: str) -> None:
    for group in ("headgroup", *manifests.worker_groups(name)):
        assert allowed(name, "ingress", ray_pod(name, group), ENTRY, 8000) == (group == "entry")
        assert not allowed(name, "ingress", ray_pod(name, group), STRANGER, 8000)


def test_the_gateway_of_incremental_upgrades_reaches_every_proxy_and_nothing_else_does() -> None:
    gateway = Peer({"gateway.networking.k8s.io/gateway-name": "sluice-gateway"})
    for group in manifests.worker_groups("incremental"):
        pod = ray_pod("incremental", group)
        assert allowed("incremental", "egress", gateway, pod, 8000)
        assert allowed("incremental", "ingress", pod, gateway, 8000)
        assert not allowed("incremental", "ingress", pod, gateway, 52365)
        assert not allowed("incremental", "ingress", pod, STRANGER, 8000)
    assert allowed("incremental", "ingress", gateway, Peer(address="93.184.216.34"), 80)


@pytest.mark.parametrize("name", ALL)
def test_metrics_are_open_to_prometheus_and_names_are_resolved(name: str) -> None:
    for group in ("headgroup", *manifests.worker_groups(name)):
        pod = ray_pod(name, group)
        assert allowed(name, "ingress", pod, PROMETHEUS, 8080)
        assert not allowed(name, "ingress", pod, STRANGER, 8080)
        assert allowed(name, "egress", pod, DNS, 53)


@pytest.mark.parametrize("name", ALL)
def test_every_worker_reaches_the_collector_of_traces_and_nothing_else_in_its_namespace(name: str) -> None:
    for group in manifests.worker_groups(name):
        assert allowed(name, "egress", ray_pod(name, group), COLLECTOR, 4318)
        assert not allowed(name, "egress", ray_pod(name, group), COLLECTOR, 4317)
        assert not allowed(name, "egress", ray_pod(name, group), STRANGER, 4318)
        assert not allowed(name, "ingress", ray_pod(name, group), COLLECTOR, 8000)


@pytest.mark.parametrize("name", SCALED)
def test_only_the_head_asks_redis(name: str) -> None:
    for group in ("headgroup", *manifests.worker_groups(name)):
        pod = ray_pod(name, group)
        assert allowed(name, "ingress", REDIS, pod, 6379) == (group == "headgroup")
        assert allowed(name, "egress", pod, REDIS, 6379) == (group == "headgroup")
    assert not allowed(name, "egress", REDIS, Peer(address="93.184.216.34"), 443)


@pytest.mark.parametrize("name", WITH_GPU)
def test_the_download_reaches_the_internet_and_nothing_here(name: str) -> None:
    (job,) = manifests.of_kind(name, "Job")
    assert job["spec"]["template"]["metadata"]["labels"] == DOWNLOAD.labels
    assert allowed(name, "egress", DOWNLOAD, Peer(address="93.184.216.34"), 443)
    assert not allowed(name, "egress", DOWNLOAD, ray_pod(name, "headgroup"), 6379)
    assert not allowed(name, "egress", DOWNLOAD, Peer(address="169.254.169.254"), 80)


@pytest.mark.parametrize("name", ALL)
def test_the_head_reaches_the_kubernetes_api(name: str) -> None:
    for port in (443, 6443):
        assert allowed(name, "egress", ray_pod(name, "headgroup"), Peer(address="10.96.0.1"), port)


@pytest.mark.parametrize("name", ALL)
def test_nothing_publishes_a_port_of_ray(name: str) -> None:
    for document in manifests.of_kind(name, "Service"):
        assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
    for document in manifests.of_kind(name, "Ingress"):
        for rule in document["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"]["port"] == {"number": 8000}
                assert path["path"] != "/" or path["pathType"] == "Exact"  # what is not named stays inside: /metrics
    for template in manifests.pod_templates(name).values():
        assert "hostNetwork" not in template["spec"]
        assert not any("hostPort" in port for port in ray_container(template).get("ports", []))
    assert "serviceType" not in manifests.cluster(name)["headGroupSpec"]
