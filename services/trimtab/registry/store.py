"""The registry: content-addressed artifacts over fsspec.

    blobs/sha256/<hex>            the files, each once
    manifests/<model id>.json     what a model is made of
    generations/<tenant>/<line>   the fence

Publishing writes blobs first and the manifest last, by rename: a reader sees a whole artifact or none. Loading
(`fetch`) checks the digest of every file, every time. Blocking calls: use them from threads.
"""

import hashlib
import pathlib
import shutil
import uuid

import fsspec
from fsspec.implementations import local

from trimtab.core import errors, failpoints, files, models, text
from trimtab.registry import away, fence, kinds, manifests

_CHUNK = 1 << 20


class Registry:
    """url: any fsspec URL, e.g. file:///var/lib/models. cache: folder for verified copies, shared by processes.

    ServiceUnavailable from all that it does: the registry is on another machine and cannot be reached.
    """

    def __init__(self, url: str, cache: pathlib.Path) -> None:
        self._url = url.rstrip("/")
        self._cache = cache
        found, root = fsspec.core.url_to_fs(self._url)
        self._files = found if isinstance(found, local.LocalFileSystem) else away.Elsewhere(found, self._url)
        self._blobs = f"{root}/blobs/sha256"
        self._manifests = f"{root}/manifests"
        self._fence = fence.Fence(self._files, f"{root}/generations")

    def publish(self, folder: pathlib.Path, draft: manifests.ManifestDraft) -> manifests.Manifest:
        """Publishes the files of a folder. The same content and draft again change nothing and give the same id.

        ArtifactCorrupt names a file that is never loaded; StaleGeneration says a newer writer has published,
        ServiceUnavailable that another one holds the line's turn and does not go on.
        """
        paths = _scan(folder)
        writer = (draft.tenant, draft.line, draft.generation)
        self._fence.admit(*writer)
        files = [_entry(folder / name, name) for name in paths]
        manifest = manifests.complete(draft, files)
        for file in files:
            failpoints.reach("registry.publish.before_blob")
            self._put_blob(folder / file.path, file)
        with self._fence.passing(*writer):  # a newer one may have published while the files were copied
            failpoints.reach("registry.publish.before_manifest")
            path = self._manifest_path(manifest.id)
            if self._files.exists(path):
                return self.manifest(manifest.id)
            self._files.makedirs(self._manifests, exist_ok=True)
            self._write(path, manifests.to_json(manifest))
            return manifest

    def manifest(self, model_id: str) -> manifests.Manifest:
        """What a model is; NotFound, or ArtifactCorrupt when the manifest is not the one that was published."""
        if not manifests.is_digest(model_id):
            raise errors.NotFound("model", model_id)
        try:
            data = self._files.cat_file(self._manifest_path(model_id))
        except FileNotFoundError:
            raise errors.NotFound("model", model_id) from None
        return manifests.from_json(data, model_id)

    def list(self) -> list[manifests.Manifest]:
        """All published models, oldest first."""
        if not self._files.exists(self._manifests):
            return []
        names = (pathlib.PurePosixPath(path) for path in self._files.ls(self._manifests, detail=False))
        found = [self.manifest(name.stem) for name in names if name.suffix == ".json" and name.stem[0] != "."]
        return sorted(found, key=lambda manifest: (manifest.created_at, manifest.id))

    def announcement(self, manifest: manifests.Manifest, config_digest: str = "") -> models.PublishedModel:
        """The record that tells the other processes of a model; `uri` is where one of another machine finds it."""
        return models.PublishedModel(
            id=manifest.id,
            context=text.Context(manifest.tenant, manifest.line, config_digest=config_digest),
            kind=manifest.kind,
            published_at=manifest.created_at,
            parents=manifest.parents,
            run_id=manifest.run_id,
            datasets=manifest.datasets,
            gates=manifest.gates,
            passed=manifest.passed,
            generation=manifest.generation,
            uri=f"{self._url}/manifests/{manifest.id}.json",
            method=manifest.method,
        )

    def fetch(self, model_id: str) -> pathlib.Path:
        """A local folder with exactly the files of the manifest, each verified now.

        ArtifactCorrupt names the file that is not what was published; the local copy is gone then, and the next fetch
        makes a new one. Also for a file that no artifact may hold, whoever wrote the manifest: it is not even copied.
        """
        manifest = self.manifest(model_id)
        for file in manifest.files:
            kinds.check_name(file.path)
        folder = self._cache / model_id
        if not folder.exists():
            self._materialise(manifest, folder)
        problem = _difference(folder, manifest)
        if problem:
            shutil.rmtree(folder)
            raise errors.ArtifactCorrupt(f"Model {model_id} cannot be loaded: {problem}; fetch it again.")
        for file in manifest.files:
            kinds.check(folder / file.path, file.path)
        return folder

    def _materialise(self, manifest: manifests.Manifest, folder: pathlib.Path) -> None:
        temporary = self._cache / f".{manifest.id}.{uuid.uuid4().hex}"
        try:
            for file in manifest.files:
                target = temporary / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._get_blob(file, target, manifest.id)
                failpoints.reach("registry.fetch.file_copied")
            failpoints.reach("registry.fetch.before_rename")
            temporary.rename(folder)
            failpoints.reach("registry.fetch.renamed")
        except OSError:
            if not folder.exists():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _get_blob(self, file: manifests.File, target: pathlib.Path, model_id: str) -> None:
        try:
            self._files.get_file(f"{self._blobs}/{file.sha256}", str(target))
        except FileNotFoundError:
            raise errors.ArtifactCorrupt(
                f"Model {model_id} cannot be loaded: {file.path!r} is missing from the registry; publish it again."
            ) from None

    def _put_blob(self, source: pathlib.Path, file: manifests.File) -> None:
        path = f"{self._blobs}/{file.sha256}"
        if self._files.exists(path) and self._digest(path) == file.sha256:
            return
        self._files.makedirs(self._blobs, exist_ok=True)
        if not isinstance(self._files, local.LocalFileSystem):
            self._files.put_file(str(source), path)
            return
        temporary = pathlib.Path(f"{self._blobs}/.{uuid.uuid4().hex}")
        shutil.copyfile(source, temporary)
        failpoints.reach("registry.publish.blob_copied")
        if _entry(temporary, file.path) != file:
            temporary.unlink()
            raise errors.ArtifactCorrupt(f"{file.path!r} changed while it was being published; publish it again.")
        files.settle(temporary, pathlib.Path(path))

    def _write(self, path: str, data: bytes) -> None:
        if not isinstance(self._files, local.LocalFileSystem):
            self._files.pipe_file(path, data)  # object stores show a whole object or none
            return
        final = pathlib.Path(path)
        temporary = final.with_name(f".{uuid.uuid4().hex}")
        temporary.write_bytes(data)
        files.settle(temporary, final)

    def _digest(self, path: str) -> str:
        digest = hashlib.sha256()
        with self._files.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def _manifest_path(self, model_id: str) -> str:
        return f"{self._manifests}/{model_id}.json"


def _scan(folder: pathlib.Path) -> list[str]:
    """The files of a folder by relative path, all of kinds that may be published."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    if not names:
        raise errors.InvalidField("folder", f"{str(folder)!r} holds no file", "name the folder of a model or data set")
    for name in names:
        kinds.check(folder / name, name)
    return names


def loaded_digest(folder: pathlib.Path) -> str:
    """The digest that a replica reports which has loaded what lies in this folder."""
    return manifests.digest_of([_entry(folder / name, name) for name in _scan(folder)])


def _entry(path: pathlib.Path, name: str) -> manifests.File:
    return manifests.File(path=name, size=path.stat().st_size, sha256=files.digest(path))


def _difference(folder: pathlib.Path, manifest: manifests.Manifest) -> str:
    """The first file that is not as published, in words; empty when all are."""
    wanted = {file.path: file for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    for name in sorted(present ^ wanted.keys()):
        return f"{name!r} is missing" if name in wanted else f"{name!r} is not part of it"
    for name, file in wanted.items():
        if _entry(folder / name, name) != file:
            return f"the bytes of {name!r} are not those that were published"
    return ""
