"""The official Python client against the cluster that KUBECONFIG names, in the namespace that it is given."""

import sys

from kubernetes import client, config, watch

namespace = sys.argv[1]
config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
crontabs = {"group": "clients.improv.dev", "version": "v1", "namespace": namespace, "plural": "crontabs"}


def template():
    container = client.V1Container(name="main", image="improv.dev/hello:0.1.0")
    return client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels={"app": "py"}), spec=client.V1PodSpec(containers=[container])
    )


def events(list_call, until, **arguments):
    """The events of a watch up to the first that `until` takes."""
    seen = []
    for event in watch.Watch().stream(list_call, timeout_seconds=20, **arguments):
        seen.append(event["type"])
        if until(event):
            return seen
    raise AssertionError(f"the watch ended after {seen}")


def config_maps():
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="py"), data={"a": "1"})
    made = core.create_namespaced_config_map(namespace, body)
    assert made.metadata.uid and made.data == {"a": "1"}, made
    patched = core.patch_namespaced_config_map("py", namespace, {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}, patched
    patched.data = {"c": "3"}
    assert core.replace_namespaced_config_map("py", namespace, patched).data == {"c": "3"}
    try:
        core.replace_namespaced_config_map("py", namespace, made)
        raise AssertionError("a stale object was written")
    except client.ApiException as refused:
        assert refused.status == 409, refused
    core.delete_namespaced_config_map("py", namespace)
    seen = events(
        core.list_namespaced_config_map,
        lambda event: event["type"] == "DELETED",
        namespace=namespace,
        field_selector="metadata.name=py",
        resource_version=made.metadata.resource_version,
    )
    assert seen == ["MODIFIED", "MODIFIED", "DELETED"], seen
    left = [item.metadata.name for item in core.list_namespaced_config_map(namespace).items]
    assert "py" not in left, left


def deployments_and_pods():
    spec = client.V1DeploymentSpec(
        replicas=2, selector=client.V1LabelSelector(match_labels={"app": "py"}), template=template()
    )
    body = client.V1Deployment(metadata=client.V1ObjectMeta(name="py"), spec=spec)
    apps.create_namespaced_deployment(namespace, body)
    events(
        apps.list_namespaced_deployment,
        lambda event: event["object"].status.available_replicas == 2,
        namespace=namespace,
        field_selector="metadata.name=py",
    )
    pods = core.list_namespaced_pod(namespace, label_selector="app=py").items
    assert [pod.status.phase for pod in pods] == ["Running"] * 2, pods
    scaled = apps.patch_namespaced_deployment_scale("py", namespace, {"spec": {"replicas": 1}})
    assert scaled.spec.replicas == 1, scaled
    pod = core.patch_namespaced_pod(pods[0].metadata.name, namespace, {"metadata": {"labels": {"seen": "yes"}}})
    assert pod.metadata.labels["seen"] == "yes", pod
    apps.delete_namespaced_deployment("py", namespace)


def pods_alone():
    alone = {"namespace": namespace, "field_selector": "metadata.name=alone"}
    body = client.V1Pod(metadata=client.V1ObjectMeta(name="alone"), spec=template().spec)
    made = core.create_namespaced_pod(namespace, body)
    events(core.list_namespaced_pod, lambda event: event["object"].status.phase == "Running", **alone)
    core.delete_namespaced_pod("alone", namespace)
    seen = events(
        core.list_namespaced_pod,
        lambda event: event["type"] == "DELETED",
        resource_version=made.metadata.resource_version,
        **alone,
    )
    assert set(seen) == {"MODIFIED", "DELETED"}, seen


def custom_objects():
    body = {
        "apiVersion": "clients.improv.dev/v1",
        "kind": "CronTab",
        "metadata": {"name": "py"},
        "spec": {"schedule": "* * * * *"},
    }
    custom.create_namespaced_custom_object(body=body, **crontabs)
    patch = {"spec": {"steps": [{"command": "true"}]}}
    patched = custom.patch_namespaced_custom_object(name="py", body=patch, **crontabs)
    assert patched["spec"]["schedule"] == "* * * * *" and patched["spec"]["steps"], patched
    seen = events(custom.list_namespaced_custom_object, lambda event: True, **crontabs)
    assert seen == ["ADDED"], seen
    try:
        custom.patch_namespaced_custom_object(name="py", body={"spec": {"schedule": 5}}, **crontabs)
        raise AssertionError("a number was taken as a schedule")
    except client.ApiException as refused:
        assert refused.status == 422, refused
    custom.delete_namespaced_custom_object(name="py", **crontabs)
    assert custom.list_namespaced_custom_object(**crontabs)["items"] == []


config_maps()
deployments_and_pods()
pods_alone()
custom_objects()
