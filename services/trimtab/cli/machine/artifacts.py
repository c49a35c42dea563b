"""Artifacts an operator brings: a model folder, a data set file, and the demo's untrained base. Imports torch late."""

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from trimtab import registry
from trimtab.bus import trail
from trimtab.cli.machine import platform
from trimtab.core import audit, errors, ids, models, text

# What of a model folder is served; anything else in it is left behind.
_SERVED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")


def open_registry(layout: platform.Layout) -> registry.Registry:
    """What a platform keeps, whether it runs or not; NotFound when the folder is no platform's."""
    if not layout.lines.is_file():
        raise errors.NotFound("platform in", str(layout.state))
    return registry.Registry(layout.registry_url, layout.cache)


def resolve(layout: platform.Layout, prefix: str) -> str:
    """The model id that begins with `prefix`; NotFound or InvalidField when there is none or more than one."""
    found = [manifest.id for manifest in open_registry(layout).list() if manifest.id.startswith(prefix)]
    if not found:
        raise errors.NotFound("model", prefix)
    if len(found) > 1:
        raise errors.InvalidField("model", f"{prefix!r} begins {len(found)} ids", "give more of it")
    return found[0]


def is_reward_model(layout: platform.Layout, model_id: str) -> bool:
    """Whether the registry holds a reward model of this whole id."""
    kinds = (models.ModelKind.REWARD, models.ModelKind.EVALUATION_REWARD)
    return any(one.id == model_id and one.kind in kinds for one in open_registry(layout).list())


def import_policy(layout: platform.Layout, folder: pathlib.Path, tenant: str, line: str, by: str) -> str:
    """Publishes a Hugging Face chat model folder as a policy and returns its id. The same folder, the same id.

    Bringing a folder that nobody brought before is an act: who did it stands in the manifest, and on the audit trail.
    """
    if not (folder / "config.json").is_file():
        raise errors.InvalidField(
            "--policy", f"{str(folder)!r} holds no config.json", "name a Hugging Face model folder"
        )
    if not list(folder.glob("*.safetensors")):
        raise errors.InvalidField(
            "--policy", f"{str(folder)!r} holds no safetensors", "convert it with `save_pretrained` of transformers"
        )
    with tempfile.TemporaryDirectory(dir=layout.state) as scratch:
        staged = pathlib.Path(scratch)
        for pattern in _SERVED:
            for path in folder.glob(pattern):
                shutil.copy(path, staged / path.name)
        draft = dataclasses.replace(
            _draft(models.ModelKind.POLICY, tenant, line, "imported"),
            imported_by=by,
            imported_from=folder.absolute().name,
        )
        model_id = open_registry(layout).publish(staged, draft).id
    note_imports(layout)
    return model_id


def note_imports(layout: platform.Layout) -> None:
    """Puts on the audit trail who brought which model, also what a killed import has left out. Blocks while another
    process does so."""
    brought = [manifest for manifest in open_registry(layout).list() if manifest.imported_by]
    with (
        (layout.state / "imports.lock").open("a") as alone,
        contextlib.closing(layout.open_log()) as log,
        contextlib.closing(trail.Trail(log)) as acts,
    ):
        fcntl.flock(alone, fcntl.LOCK_EX)
        acts.put(_brought(manifest) for manifest in brought)


def _brought(manifest: registry.Manifest) -> audit.AuditRecord:
    return audit.AuditRecord(
        id=str(ids.content_uuid("model.import", manifest.id)),
        context=text.Context(manifest.tenant, manifest.line),
        at=manifest.created_at,
        actor=manifest.imported_by,
        act="model.import",
        target=manifest.id,
        reason=f"from folder {manifest.imported_from}",
    )


def publish_tiny_base(layout: platform.Layout, texts: Sequence[str], tenant: str, line: str, seed: int) -> str:
    """An untrained 0.5 M parameter Llama with a tokenizer made from the texts: where the demo's line starts."""
    from trimtab.modeling import loading, tiny

    tokenizer = tiny.train_bpe(texts, vocab_size=1024)
    model = tiny.tiny_llama(len(tokenizer), seed)
    with tempfile.TemporaryDirectory(dir=layout.state) as scratch:
        folder = pathlib.Path(scratch)
        loading.save_policy(model, tokenizer, loading.ServingProfile(max_tokens=80), folder)
        return open_registry(layout).publish(folder, _draft(models.ModelKind.BASE, tenant, line, "random weights")).id


def publish_reward_base(layout: platform.Layout, texts: Sequence[str], tenant: str, line: str) -> str:
    """An untrained Llama of one layer with room for whole dialogues: where an imported reward model starts.

    From a few thousand preferences larger ones learn no more, and take up to four times as long.
    """
    from trimtab.modeling import loading, tiny

    tokenizer = tiny.train_bpe(texts, vocab_size=4096)
    model = tiny.tiny_llama(len(tokenizer), seed=0, hidden=64, layers=1, intermediate=192, context=2048)
    with tempfile.TemporaryDirectory(dir=layout.state) as scratch:
        folder = pathlib.Path(scratch)
        loading.save_policy(model, tokenizer, loading.ServingProfile(), folder)
        return open_registry(layout).publish(folder, _draft(models.ModelKind.BASE, tenant, line, "random weights")).id


def publish_dataset(layout: platform.Layout, file: pathlib.Path, tenant: str, line: str) -> str:
    """Publishes a JSONL file of demonstrations or preferences as a data set and returns its id."""
    from trimtab.trainer.data import datasets

    return datasets.publish_file(open_registry(layout), file, tenant, line).id


def _draft(kind: models.ModelKind, tenant: str, line: str, method: str) -> registry.ManifestDraft:
    # no clock in it: the same bytes are the same model
    return registry.ManifestDraft(kind=kind, tenant=tenant, line=line, method=method)
