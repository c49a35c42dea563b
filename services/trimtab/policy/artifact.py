"""From the registry into memory: the policy a process serves for life. Called once, in the engine's thread."""

import pathlib

from trimtab import registry
from trimtab.core import errors, models
from trimtab.policy import local, remote, settings

_SERVABLE = frozenset({models.ModelKind.POLICY, models.ModelKind.BASE})


def load(models_there: registry.Registry, config: settings.PolicySettings) -> local.Loaded:
    """Verifies the artifact's bytes, then loads it. NotFound, ArtifactCorrupt, or InvalidField for another kind."""
    folder, digest = _verified(models_there, config)
    # late: torch takes seconds, and this is the first place that needs it
    import torch

    from trimtab.modeling import loading

    torch.set_num_threads(config.threads)
    return local.Loaded(loading.load_policy(folder, getattr(torch, config.dtype)), digest)


def verify(models_there: registry.Registry, config: settings.PolicySettings) -> remote.Verified:
    """As `load`, all but the weights: those another process has read from the same folder."""
    folder, digest = _verified(models_there, config)
    from trimtab.modeling import loading

    return remote.Verified(folder, loading.load_front(folder), digest, config.model_id)


def _verified(models_there: registry.Registry, config: settings.PolicySettings) -> tuple[pathlib.Path, str]:
    manifest = models_there.manifest(config.model_id)
    if manifest.kind not in _SERVABLE:
        raise errors.InvalidField("model_id", f"names a {manifest.kind.value}", "name a policy")
    return models_there.fetch(config.model_id), manifest.loaded_digest
