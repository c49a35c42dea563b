"""`trimtab models fetch`: a model's verified files, for an engine that is started on a folder."""

import pathlib

from trimtab import registry
from trimtab.cli import show


def fetch(model_id: str, url: str, cache: pathlib.Path) -> None:
    """Prints the folder. NotFound, or ArtifactCorrupt for bytes that are not those that were published."""
    cache.mkdir(parents=True, exist_ok=True)
    show.Screen().say(show.literal(str(registry.Registry(url, cache).fetch(model_id))))
