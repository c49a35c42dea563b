"""What the rollout controller can be told. Read by `rollout.app`."""

import pathlib

import pydantic

from trimtab.rpc import settings


class RolloutSettings(settings.ProcessSettings):
    """Decides which policy is live: verifies, canaries, judges by users' feedback, promotes and rolls back."""

    ledger_address: str = pydantic.Field(description="Address of the ledger, host:port: evidence and the lease.")
    reward_address: str = pydantic.Field(
        "",
        description="Address of the reward service, host:port; without one releases have no guardrail on the reward.",
    )
    state: pathlib.Path | None = pydantic.Field(
        None,
        description="State folder of this machine's supervisor, through whose table policies are started; not given: "
        "they run on Kubernetes.",
    )
    namespace: str = pydantic.Field("", description="Kubernetes namespace in which policies run; without `--state`.")
    policy_template: pathlib.Path | None = pydantic.Field(
        None,
        description="YAML file with the `spec` of a policy's Deployment, as the chart makes it; with `--namespace`.",
    )
    instance: str = pydantic.Field(
        "trimtab", description="What the names of all objects in the cluster begin with: the chart's release."
    )
    kubeconfig: pathlib.Path | None = pydantic.Field(
        None, description="How to reach the cluster from outside of it; not given: as the pod's service account."
    )
    policy_command: str = pydantic.Field(
        "", description="How a policy is started, with {policy_id}, {line} and {address}; empty means `trimtab policy`."
    )
    look_every_s: float = pydantic.Field(1.0, gt=0, description="Seconds between looks at every line.")
    lease_s: float = pydantic.Field(10.0, gt=0, description="Seconds the right to act lasts unless renewed.")

    @pydantic.model_validator(mode="after")
    def _names_one_place(self) -> "RolloutSettings":
        if (self.state is None) == (not self.namespace):
            raise ValueError("give either `state` (policies on this machine) or `namespace` (on Kubernetes)")
        if self.namespace and self.policy_template is None:
            raise ValueError("`policy_template` is missing: with `namespace`, give the file that the chart makes")
        return self
