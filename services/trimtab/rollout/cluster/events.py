"""What happens to a release, told to the cluster as Events of its policy's Deployment. Called by `rollout.desk`.

For people who look there (`kubectl events`); the record on the log is the truth, and what the cluster did not take is
not told again.
"""

from kubernetes import client

from trimtab.core import errors, releases
from trimtab.obs import logging
from trimtab.rollout.cluster import api, template

_log = logging.get(__name__)
_WARNINGS = frozenset({releases.ReleaseState.FAILED, releases.ReleaseState.ROLLING_BACK})
_LONGEST = 1000


class Events:
    def __init__(self, cluster: api.Api, shape: template.Template, reporter: str) -> None:
        """reporter: which controller says so."""
        self._api = cluster
        self._template = shape
        self._reporter = reporter

    def tell(self, release: releases.Release) -> None:
        """The state that it is in now. Blocking; a cluster that is away is told nothing."""
        try:
            self._tell(release)
        except (errors.ServiceUnavailable, errors.Overloaded) as problem:
            _log.warning("the cluster was not told of a release", release=release.id, reason=str(problem))

    def _tell(self, release: releases.Release) -> None:
        there = self._api.deployments(self._template.labels(release.context.line))
        mine = [one for one in there if template.served_by(one) == release.candidate_id]
        if not mine:
            return
        about, last = mine[0].metadata, release.history[-1]
        self._api.tell(
            client.CoreV1Event(
                metadata=client.V1ObjectMeta(name=f"{about.name}.{release.id}.{release.revision}"),
                involved_object=client.V1ObjectReference(
                    api_version="apps/v1", kind="Deployment", name=about.name, namespace=about.namespace, uid=about.uid
                ),
                type="Warning" if release.state in _WARNINGS else "Normal",
                reason="".join(word.capitalize() for word in release.state.value.split("_")),
                message=f"Release {release.id}: {last.reason}"[:_LONGEST],
                action=release.state.value,
                reporting_component=api.FIELD_MANAGER,
                reporting_instance=self._reporter,
                event_time=last.at,
                first_timestamp=last.at,
                last_timestamp=last.at,
                count=1,
            )
        )
