"""From the registry into memory: the policy a process serves for life. Called once, in the engine's thread."""

from trimtab import registry
from trimtab.core import errors, models
from trimtab.policy import local, settings

_SERVABLE = frozenset({models.ModelKind.POLICY, models.ModelKind.BASE})


def load(models_there: registry.Registry, config: settings.PolicySettings) -> local.Loaded:
    """Verifies the artifact's bytes, then loads it. NotFound, ArtifactCorrupt, or InvalidField for another kind."""
    manifest = models_there.manifest(config.model_id)
    if manifest.kind not in _SERVABLE:
        raise errors.InvalidField("model_id", f"names a {manifest.kind.value}", "name a policy")
    folder = models_there.fetch(config.model_id)
    # late: torch takes seconds, and this is the first place that needs it
    import torch

    from trimtab.modeling import loading

    torch.set_num_threads(config.threads)
    return local.Loaded(loading.load_policy(folder, getattr(torch, config.dtype)), manifest.loaded_digest)
