"""What a published artifact is: its files by digest, where it came from, how it was judged.

The id of a model is the sha256 of its manifest's canonical JSON without `created_at`, `generation`, `imported_by` and
`imported_from`: who published it when is written down, but the same thing published twice is the same thing.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from trimtab.core import clock, errors, models

_FORMAT = 1
_NOT_IDENTITY = ("created_at", "generation", "imported_by", "imported_from")


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """path: relative, with forward slashes; size in bytes; sha256 hex."""

    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestDraft:
    """What a publisher says about a folder. settings: JSON values; generation 0: an operator's import, never fenced.

    imported_by: the operator whose act it was; empty: it was none, or part of another. imported_from: a folder's name.
    """

    kind: models.ModelKind
    tenant: str
    line: str
    method: str = ""
    parents: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    run_id: str = ""
    gates: tuple[models.GateFigure, ...] = ()
    passed: bool = True
    generation: int = 0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    imported_by: str = ""
    imported_from: str = ""
    created_at: datetime.datetime = dataclasses.field(default_factory=clock.utc_now)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(ManifestDraft):
    """A published artifact; files are sorted by path."""

    id: str
    files: tuple[File, ...]

    @property
    def loaded_digest(self) -> str:
        """What a replica reports after loading: sha256, hex, over the lines "sha256  path", sorted by path."""
        return digest_of(self.files)


def digest_of(files: Sequence[File]) -> str:
    """sha256, hex, over the lines "sha256  path", sorted by path."""
    lines = [f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def complete(draft: ManifestDraft, files: Sequence[File]) -> Manifest:
    """The manifest of a draft and its files, with its id."""
    ordered = tuple(sorted(files, key=lambda file: file.path))
    values = {field.name: getattr(draft, field.name) for field in dataclasses.fields(ManifestDraft)}
    unnamed = Manifest(id="", files=ordered, **values)
    return dataclasses.replace(unnamed, id=_id_of(_document(unnamed)))


def to_json(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    return _canonical(_document(manifest))


def from_json(data: bytes, expected_id: str) -> Manifest:
    """The manifest; ArtifactCorrupt when the bytes are not the ones its id was made of."""
    try:
        document = json.loads(data)
        manifest = _parsed(document)
    except (ValueError, KeyError, TypeError) as problem:
        raise errors.ArtifactCorrupt(f"The manifest of {expected_id} cannot be read: {problem}.") from problem
    if _id_of(document) != expected_id:
        raise errors.ArtifactCorrupt(f"The manifest of {expected_id} has been changed since it was published.")
    return dataclasses.replace(manifest, id=expected_id)


def _document(manifest: Manifest) -> dict[str, Any]:
    document = {
        field.name: getattr(manifest, field.name) for field in dataclasses.fields(Manifest) if field.name != "id"
    }
    document["format"] = _FORMAT
    document["kind"] = manifest.kind.value
    document["created_at"] = manifest.created_at.astimezone(datetime.UTC).isoformat()
    document["files"] = [dataclasses.asdict(file) for file in manifest.files]
    document["gates"] = [_gate_document(gate) for gate in manifest.gates]
    return document


def _gate_document(gate: models.GateFigure) -> dict[str, Any]:
    figures = {"value": float(gate.value), "threshold": float(gate.threshold)}
    # JSON has no infinities: a figure that is not finite is written as its name
    written = {name: figure if math.isfinite(figure) else str(figure) for name, figure in figures.items()}
    return dataclasses.asdict(gate) | written


def _canonical(document: dict[str, Any]) -> bytes:
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as problem:
        raise errors.InvalidField(
            "settings", f"are no JSON ({problem})", "use finite numbers, text, lists, maps"
        ) from None


def _id_of(document: dict[str, Any]) -> str:
    identity = {key: value for key, value in document.items() if key not in _NOT_IDENTITY}
    return hashlib.sha256(_canonical(identity)).hexdigest()


def _parsed(document: dict[str, Any]) -> Manifest:
    values = dict(document)
    if values.pop("format") != _FORMAT:
        raise ValueError("its format is of another version")
    values["kind"] = models.ModelKind(values["kind"])
    values["created_at"] = datetime.datetime.fromisoformat(values["created_at"])
    values["files"] = tuple(_file(entry) for entry in values["files"])
    values["gates"] = tuple(
        models.GateFigure(**entry | {"value": float(entry["value"]), "threshold": float(entry["threshold"])})
        for entry in values["gates"]
    )
    for name in ("parents", "datasets"):
        values[name] = tuple(values[name])
    return Manifest(id="", **values)


def _file(entry: dict[str, Any]) -> File:
    path = pathlib.PurePosixPath(entry["path"])
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the path {entry['path']!r} leaves the artifact's folder")
    if not is_digest(entry["sha256"]):
        raise ValueError(f"{entry['path']!r} has no sha256")
    return File(**entry)


def is_digest(text: str) -> bool:
    """Whether a text is a sha256 in lower-case hex."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
