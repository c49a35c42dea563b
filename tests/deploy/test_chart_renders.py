"""Every values file gives manifests that Kubernetes takes, the same each time; what is misspelt is refused."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy import charts

pytestmark = pytest.mark.kubernetes
# Of operators: their schemas are not Kubernetes's.
CUSTOM = ("monitoring.coreos.com", "kafka.strimzi.io")
KUBERNETES = "1.37"


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_helm_finds_nothing_to_say_against_it(name: str) -> None:
    done = charts.ran("lint", "--strict", charts.CHART, *[f"--values={path}" for path in charts.INSTALLATIONS[name]])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_every_manifest_is_valid_to_the_letter(name: str) -> None:
    documents = charts.written_out(charts.rendered(name))
    checked = [one for one in documents if not one["apiVersion"].startswith(CUSTOM)]
    for document in checked:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert {one["kind"] for one in checked} >= {"Deployment", "Service", "NetworkPolicy", "Role", "Job", "ConfigMap"}


def test_a_manifest_that_is_not_valid_would_be_noticed() -> None:
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", charts.INSTALLATIONS)
def test_an_upgrade_that_changes_nothing_changes_nothing(name: str) -> None:
    assert charts.rendered(name, "--is-upgrade") == charts.rendered(name)
    assert not charts.of_kind(charts.rendered(name), "Secret"), "secrets are made by people, and outlive releases"


def test_names_are_given_once_and_every_object_is_of_this_release() -> None:
    for name in charts.INSTALLATIONS:
        named = [(one["kind"], one["metadata"]["name"]) for one in charts.rendered(name)]
        assert len(named) == len(set(named))
        assert all(one == charts.RELEASE or one.startswith(f"{charts.RELEASE}-") for _, one in named)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--set=kafka.boostrap=a:1",), "boostrap"),
        (("--set=gateway.replica=2",), "replica"),
        (("--set=policy.engine=tensorrt",), "engine"),
        (("--set=gateway.resources.limits=null",), "limits"),
        (("--set=rollout.replicas=2",), "replicas"),
        (("--set=postgres.url=postgresql://trimtab:secret@host/db",), "postgres"),
        (("--set=kafka.bootstrap=",), "Give `kafka.bootstrap`"),
        (("--set=kafka.bootstrap=a:9094",), "networkPolicy.outside.kafka.ports"),
        (("--set=postgres.url=postgresql://trimtab@host:6432/db",), "networkPolicy.outside.postgres.ports"),
        (("--set=kafka.strimzi.enabled=true",), "not both"),
        (("--set=postgres.url=",), "Give `postgres.url`"),
        (("--set-string=lines=",), "lines"),
        (("--set-string=lines=[lines.Big]\ntenant = 'a'",), "small letters"),
        (("--set-string=lines=[lines.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz]\ntenant = 'a'",), "shorten"),
        (("--set=toolbox.line=nobody",), "nobody"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_refused_by_its_name(flags: tuple[str, ...], said: str) -> None:
    small = f"--values={charts.VALUES / 'small.yaml'}"
    assert charts.ran("template", charts.RELEASE, charts.CHART, small).returncode == 0
    done = charts.ran("template", charts.RELEASE, charts.CHART, small, *flags)
    assert done.returncode != 0
    assert said in done.stderr


def _objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}")


def test_the_schema_knows_every_default_explains_every_value_and_takes_no_other() -> None:
    schema = json.loads((charts.CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((charts.CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == defaults.keys()
    for path, one in _objects(schema):
        target = one | schema["$defs"].get(one.get("$ref", "").rpartition("/")[2], {})
        assert target.get("description"), path
        if "properties" in target:
            assert target["additionalProperties"] is False, path


def _differences(values: dict[str, Any], defaults: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            yield from _differences(value, defaults[key], f"{path}{key}.")
        elif key in defaults and defaults[key] == value:
            yield f"{path}{key}"


@pytest.mark.parametrize("file", sorted(charts.VALUES.glob("*.yaml")), ids=lambda path: path.name)
def test_values_files_hold_differences_only(file: pathlib.Path) -> None:
    defaults = yaml.safe_load((charts.CHART / "values.yaml").read_text())
    assert list(_differences(yaml.safe_load(file.read_text()), defaults)) == []


def test_the_topics_job_is_made_anew_when_what_it_does_changes() -> None:
    def job(*flags: str) -> str:
        return next(iter(charts.of_kind(charts.rendered("small", *flags), "Job")))

    assert job() == job("--set=gateway.replicas=2")
    assert job() != job("--set=kafka.replicas=3")
    assert job() != job("--set=kafka.bootstrap=other:9092")


@pytest.mark.parametrize(
    ("flag", "anew"),
    [
        ("policy.replicas=3", {"rollout"}),
        ("policy.vllm.sharedMemory=3Gi", set()),
        ("gateway.replicas=2", set()),
        ("toolbox.line=other", {"toolbox"}),
        ("logLevel=debug", {"gateway", "feedback", "ledger", "reward", "trainer", "rollout", "toolbox"}),
    ],
)
def test_a_process_starts_anew_when_what_it_reads_at_its_start_changes(flag: str, anew: set[str]) -> None:
    lines = "--set-string=lines=[lines.main]\ntenant = 'a'\n[lines.other]\ntenant = 'b'"
    before, after = (
        charts.of_kind(charts.rendered("small", lines, *flags), "Deployment") for flags in ((), (f"--set={flag}",))
    )
    changed = {name for name in before if before[name]["spec"]["template"] != after[name]["spec"]["template"]}
    assert changed == {f"{charts.RELEASE}-{name}" for name in anew}


def test_the_notes_name_the_next_command() -> None:
    done = charts.ran(
        "install", charts.RELEASE, charts.CHART, f"--values={charts.VALUES / 'small.yaml'}", "--dry-run=client"
    )
    assert done.returncode == 0, done.stderr
    for word in (
        "trimtab models import",
        "trimtab rollout adopt",
        "port-forward service/prod-gateway",
        '"model": "main"',
    ):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["gpu", "gpu on one node", "everything"])
def test_where_a_job_trains_the_trainer_offers_it_what_it_needs(name: str) -> None:
    pods = charts.pods(charts.rendered(name))
    trainer, job = pods["trainer"].spec, pods["trainer-job"].spec
    (offering,), (running,) = trainer["containers"], job["containers"]
    state = {"name": "state", "mountPath": "/var/lib/trimtab/trainer"}
    assert state in offering["volumeMounts"] and state in running["volumeMounts"]
    claims = [volume for spec in (trainer, job) for volume in spec["volumes"] if volume["name"] == "state"]
    assert claims[0] == claims[1]
    told = {word.partition("=")[0]: word.partition("=")[2] for word in offering["args"]}
    assert "--jobs-elsewhere" in told and told["--cache"].startswith(f"{told['--state']}/")
    assert running["args"] == [f"{told['--state']}/runs"]
    assert "nvidia.com/gpu" not in offering["resources"]["limits"]


def test_the_job_looks_by_its_schedule_or_when_somebody_makes_one() -> None:
    def spec(*flags: str) -> charts.Document:
        given: charts.Document = charts.of_kind(charts.rendered("everything", *flags), "CronJob")["prod-trainer-job"]
        return dict(given["spec"])

    assert spec()["suspend"] is True
    nightly = spec("--set=trainer.job.schedule=0 2 * * *")
    assert (nightly["suspend"], nightly["schedule"], nightly["concurrencyPolicy"]) == (False, "0 2 * * *", "Forbid")
