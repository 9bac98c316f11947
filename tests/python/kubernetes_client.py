"""The Python client of Kubernetes against the cluster of a kubeconfig: what it cannot do ends the program.

    kubernetes_client.py KUBECONFIG NAMESPACE

One line is printed for each thing that works; the test reads them.
"""

import base64
import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException


def main() -> None:
    kubeconfig, namespace = sys.argv[1:]
    api = config.new_client_from_config(kubeconfig)
    core = client.CoreV1Api(api)
    for step in (lists_and_pages, watches, creates_and_patches, holds_a_lease, reviews_tokens, applies, discovers):
        step(api, core, namespace)
        print(step.__name__, flush=True)


def map_of(name: str, data: dict | None = None) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"test": "python"}), data=data)


def lists_and_pages(api, core, namespace: str) -> None:
    for name in ("a", "b", "c"):
        core.create_namespaced_config_map(namespace, map_of(name))
    first = core.list_namespaced_config_map(namespace, label_selector="test=python", limit=2)
    assert [item.metadata.name for item in first.items] == ["a", "b"], first
    token = first.metadata._continue
    rest = core.list_namespaced_config_map(namespace, label_selector="test=python", limit=2, _continue=token)
    assert [item.metadata.name for item in rest.items] == ["c"], rest
    assert rest.metadata.resource_version == first.metadata.resource_version
    named = core.list_namespaced_config_map(namespace, field_selector="metadata.name=b")
    assert len(named.items) == 1, named


def watches(api, core, namespace: str) -> None:
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, map_of("seen"))
    core.delete_namespaced_config_map("seen", namespace)
    seen = []
    stream = watch.Watch()
    arguments = dict(resource_version=version, allow_watch_bookmarks=True, timeout_seconds=60)
    for event in stream.stream(core.list_namespaced_config_map, namespace, **arguments):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            stream.stop()
    assert seen == [("ADDED", "seen"), ("DELETED", "seen")], seen
    expired = watch.Watch()
    try:
        for _ in expired.stream(core.list_namespaced_config_map, namespace, resource_version="1", timeout_seconds=5):
            pass
        raise AssertionError("version 1 is too old")
    except ApiException as error:
        assert error.status == 410, error


def creates_and_patches(api, core, namespace: str) -> None:
    made = core.create_namespaced_config_map(namespace, map_of("changed", {"a": "1"}))
    core.patch_namespaced_config_map("changed", namespace, {"data": {"b": "2"}})
    read = core.read_namespaced_config_map("changed", namespace)
    assert read.data == {"a": "1", "b": "2"}, read.data
    made.data = {"c": "3"}
    try:
        core.replace_namespaced_config_map("changed", namespace, made)
        raise AssertionError("the version is not the last")
    except ApiException as error:
        assert error.status == 409 and "the object has been modified" in error.body, error
    secret = client.V1Secret(metadata=client.V1ObjectMeta(name="s"), data={"k": base64.b64encode(b"v").decode()})
    assert core.create_namespaced_secret(namespace, secret).metadata.uid


def holds_a_lease(api, core, namespace: str) -> None:
    leases = client.CoordinationV1Api(api)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15)
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=spec)
    first = leases.create_namespaced_lease(namespace, lease)
    first.spec.holder_identity = "b"
    second = leases.replace_namespaced_lease("leader", namespace, first)
    assert second.spec.holder_identity == "b"
    try:
        leases.replace_namespaced_lease("leader", namespace, first)
        raise AssertionError("the lease was taken")
    except ApiException as error:
        assert error.status == 409, error


def reviews_tokens(api, core, namespace: str) -> None:
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "web"}})
    spec = client.V1TokenRequestSpec(audiences=["istio-ca"], expiration_seconds=600)
    request = client.AuthenticationV1TokenRequest(spec=spec)
    token = core.create_namespaced_service_account_token("web", namespace, request).status.token
    reviews = client.AuthenticationV1Api(api)

    def review(token: str, audience: str):
        spec = client.V1TokenReviewSpec(token=token, audiences=[audience])
        return reviews.create_token_review(client.V1TokenReview(spec=spec)).status

    good = review(token, "istio-ca")
    assert good.authenticated and good.user.username == f"system:serviceaccount:{namespace}:web", good
    assert good.audiences == ["istio-ca"], good
    for token, audience in ((token, "other"), ("x.y.z", "istio-ca")):
        assert not review(token, audience).authenticated


def applies(api, core, namespace: str) -> None:
    resources = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    resources.server_side_apply(body=body, namespace=namespace, field_manager="python")
    body["data"]["a"] = "2"
    try:
        resources.server_side_apply(body=body, namespace=namespace, field_manager="other")
        raise AssertionError("the field belongs to somebody")
    except ApiException as error:
        assert error.status == 409, error
    forced = resources.server_side_apply(body=body, namespace=namespace, field_manager="other", force_conflicts=True)
    assert forced.data.a == "2", forced


def discovers(api, core, namespace: str) -> None:
    names = {group.name for group in client.ApisApi(api).get_api_versions().groups}
    assert {"apps", "coordination.k8s.io", "discovery.k8s.io"} <= names, names
    webhooks = client.AdmissionregistrationV1Api(api).list_mutating_webhook_configuration()
    assert webhooks.kind == "MutatingWebhookConfigurationList", webhooks
    assert client.VersionApi(api).get_code().major == "1"


main()
