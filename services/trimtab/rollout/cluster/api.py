"""The Kubernetes API in one namespace, as the controller uses it. Blocking; from any thread.

What may pass by itself is ServiceUnavailable (away, 5xx, a conflict) or Overloaded (429); what the API will refuse
again is `Refused`, with its own words: no such namespace, no permission, a quota, an object that is not valid.
"""

import contextlib
import json
import pathlib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import kubernetes
import urllib3
from kubernetes import client

from trimtab.core import errors

FIELD_MANAGER = "trimtab-rollout"
_APPLY = "application/apply-patch+yaml"
_WORDS = 300
_GONE, _CONFLICT = 404, 409
# The client's V1Deployment, V1Pod, V1Lease, ...: to its types every part of one may be missing.
Deployment: TypeAlias = Any
Pod: TypeAlias = Any
Lease: TypeAlias = Any


class Refused(errors.ServiceUnavailable):
    """The API server answered, and said no. Where no release can say so, it is waited for like an absence."""


class Api:
    def __init__(self, namespace: str, connection: client.ApiClient, timeout_s: float) -> None:
        """timeout_s: of one call; who waits for several must not lose its lease meanwhile."""
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._apps = client.AppsV1Api(connection)
        self._core = client.CoreV1Api(connection)
        self._leases = client.CoordinationV1Api(connection)

    def deployments(self, labels: Mapping[str, str]) -> list[Deployment]:
        with _said():
            found = self._apps.list_namespaced_deployment(
                self._namespace, label_selector=_selector(labels), _request_timeout=self._timeout_s
            )
        return list(found.items)

    def pods(self, labels: Mapping[str, str]) -> list[Pod]:
        with _said():
            found = self._core.list_namespaced_pod(
                self._namespace, label_selector=_selector(labels), _request_timeout=self._timeout_s
            )
        return list(found.items)

    def apply_deployment(self, manifest: Mapping[str, Any]) -> Deployment:
        """Creates it, or makes the fields that it names as it says, whoever has set them meanwhile."""
        with _said():
            return self._apps.patch_namespaced_deployment(
                manifest["metadata"]["name"], self._namespace, dict(manifest), field_manager=FIELD_MANAGER, force=True,
                _content_type=_APPLY, _request_timeout=self._timeout_s,
            )  # fmt: skip

    def create_service(self, manifest: Mapping[str, Any]) -> bool:
        """Whether it is there from now on, with this owner: one of an owner that is gone is still to go."""
        about, body = manifest["metadata"], typing.cast("client.V1Service", dict(manifest))
        with _said(), _but(_CONFLICT):
            self._core.create_namespaced_service(
                self._namespace, body, field_manager=FIELD_MANAGER, _request_timeout=self._timeout_s
            )
            return True
        with _said():
            found = self._core.list_namespaced_service(
                self._namespace, label_selector=_selector(about["labels"]), _request_timeout=self._timeout_s
            )
        (owner,) = about["ownerReferences"]
        there: list[Any] = [one.metadata for one in found.items if one.metadata.name == about["name"]]
        return any(one.uid == owner["uid"] for service in there for one in service.owner_references or ())

    def delete_deployment(self, name: str) -> None:
        """With its pods. One that is gone is as good as deleted."""
        with _said(), _but(_GONE):
            self._apps.delete_namespaced_deployment(
                name, self._namespace, propagation_policy="Foreground", _request_timeout=self._timeout_s
            )

    def delete_pod(self, name: str) -> None:
        with _said(), _but(_GONE):
            self._core.delete_namespaced_pod(name, self._namespace, _request_timeout=self._timeout_s)

    def tell(self, event: client.CoreV1Event) -> None:
        """Of one name there is one event: told again, it stays as it is."""
        with _said(), _but(_CONFLICT):
            self._core.create_namespaced_event(self._namespace, event, _request_timeout=self._timeout_s)

    def lease(self, name: str) -> Lease | None:
        with _said(), _but(_GONE):
            return self._leases.read_namespaced_lease(name, self._namespace, _request_timeout=self._timeout_s)
        return None

    def write_lease(self, lease: Lease) -> bool:
        """Whether nobody else has written it since it was read (its `resource_version`; none: it was not there)."""
        with _said(), _but(_CONFLICT):
            if lease.metadata.resource_version:
                self._leases.replace_namespaced_lease(
                    lease.metadata.name, self._namespace, lease, _request_timeout=self._timeout_s
                )
            else:
                self._leases.create_namespaced_lease(self._namespace, lease, _request_timeout=self._timeout_s)
            return True
        return False


def connect(namespace: str, kubeconfig: pathlib.Path | None, *, timeout_s: float) -> Api:
    """As the pod's service account, or as a kubeconfig file says. InvalidField when neither can be had."""
    configuration = client.Configuration()
    config: Any = kubernetes.config  # without types
    try:
        if kubeconfig is None:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    except (config.ConfigException, OSError) as problem:
        remedy = "run inside the cluster with a service account, or give a kubeconfig"
        raise errors.InvalidField("kubeconfig", f"cannot be used ({problem})", remedy) from problem
    configuration.retries = False  # the next look is soon, and what is away shall be said
    return Api(namespace, client.ApiClient(configuration), timeout_s)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


@contextlib.contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except client.ApiException as problem:
        words = _words(problem)
        if problem.status == 429:
            raise errors.Overloaded(f"The Kubernetes API asks for patience: {words}") from problem
        if problem.status in {401, _CONFLICT} or problem.status >= 500:
            raise errors.ServiceUnavailable(f"The Kubernetes API could not do it now: {words}") from problem
        raise Refused(f"The Kubernetes API refuses: {words}") from problem
    except (urllib3.exceptions.HTTPError, OSError) as problem:
        raise errors.ServiceUnavailable(f"The Kubernetes API is away: {str(problem)[:_WORDS]}") from problem


@contextlib.contextmanager
def _but(status: int) -> Iterator[None]:
    """Ends the block at an answer of this status, as if that had been asked for."""
    try:
        yield
    except client.ApiException as problem:
        if problem.status != status:
            raise


def _words(problem: client.ApiException) -> str:
    """What the API server says, without the rest of its answer."""
    try:
        said = str(json.loads(problem.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        said = str(problem.reason)
    return f"{said[:_WORDS]} ({problem.status})"
