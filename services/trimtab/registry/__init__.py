"""Content-addressed artifacts over fsspec; manifests; fencing. Processes use `Registry`; see `registry.store`."""

from trimtab.registry.manifests import File, Manifest, ManifestDraft, digest_of
from trimtab.registry.store import Registry, loaded_digest

__all__ = ["File", "Manifest", "ManifestDraft", "Registry", "digest_of", "loaded_digest"]
