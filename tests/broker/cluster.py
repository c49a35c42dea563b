"""A real Kafka for tests and for people: `make kafka` (`python -m tests.broker.cluster`) starts one until Ctrl-C.

Kafka 4 without ZooKeeper: each node is broker and controller. The jars come from Maven (`pom.xml`), once per version,
into a cache of the user's, unless KAFKA_HOME names a Kafka that is there; a JVM has to be there. Nodes listen on the
loopback interface alone, unless they are told another address of the machine.
"""

import argparse
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from tests import cache

from trimtab.rpc import ports

_POM = pathlib.Path(__file__).with_name("pom.xml")
_READY_WITHIN_S = 90.0
_STOPS_WITHIN_S = 30.0
# A clean end, and the writing of an archive.
_ARCHIVED_WITHIN_S = 300.0
_HEAP = "-Xmx512m"
_STORAGE_ID = "dHJpbXRhYi1rYWZrYS0wMQ"  # 16 bytes in base64, as Kafka wants its cluster's id


def libraries() -> pathlib.Path:
    """The folder with Kafka's jars: that of KAFKA_HOME, or one that is fetched where it is not there yet."""
    if home := os.environ.get("KAFKA_HOME"):
        return _of_a_release(pathlib.Path(home))
    folder = cache.folder() / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    with cache.alone(cache.folder() / "kafka.lock"):
        if not folder.exists():
            _fetch(folder)
    return folder


def classes() -> pathlib.Path:
    """What a broker has loaded by the time it is up, for the next ones: they start in half the processor time. Made
    where it is not there yet. A JVM of another version does without."""
    name = hashlib.sha256(bytes(libraries().resolve())).hexdigest()[:12]
    archive = cache.folder() / f"kafka-classes-{name}.jsa"
    with cache.alone(archive.with_name("classes.lock")), tempfile.TemporaryDirectory(dir=archive.parent) as made:
        if not archive.exists():
            first = Cluster(pathlib.Path(made), jvm_option=f"-XX:ArchiveClassesAtExit={made}/classes.jsa")
            try:
                first.start()
            finally:
                first.nodes[0].stop(_ARCHIVED_WITHIN_S)
            (pathlib.Path(made) / "classes.jsa").rename(archive)
    return archive


def _of_a_release(home: pathlib.Path) -> pathlib.Path:
    if not list(home.glob("libs/kafka-server-*.jar")):
        raise RuntimeError(f"KAFKA_HOME is {home}, which has no libs/kafka-server-*.jar: name an unpacked Kafka 4.")
    return home / "libs"


def _fetch(folder: pathlib.Path) -> None:
    if shutil.which("mvn") is None or shutil.which("java") is None:
        raise RuntimeError("Kafka needs `mvn` and `java`: install Maven and a JDK.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        goal = ("dependency:copy-dependencies", f"-DoutputDirectory={made}/libs", "-DincludeScope=runtime")
        subprocess.run(["mvn", "-q", "-B", "-f", str(_POM), *goal], check=True)
        (pathlib.Path(made) / "libs").rename(folder)


class Node:
    """One broker and controller. A kill or a stop keeps its data; `start` goes on with them."""

    def __init__(
        self, folder: pathlib.Path, number: int, settings: Mapping[str, str], at: tuple[str, int], *, jvm_option: str
    ) -> None:
        self.host, self.port = at
        self._folder, self._number = folder, number
        self._options = (_HEAP, "-XX:+UseSerialGC", jvm_option)
        self._process: subprocess.Popen[bytes] | None = None
        self._said_before = 0
        folder.mkdir(parents=True)
        self._properties = folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        run_java("kafka.tools.StorageTool", "format", "-t", _STORAGE_ID, "-c", str(self._properties))

    @property
    def data(self) -> pathlib.Path:
        return self._folder / "data"

    @property
    def log(self) -> pathlib.Path:
        return self._folder / "kafka.out"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._said_before = output.tell()
            command = _java("kafka.Kafka", str(self._properties), options=self._options)
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def stop(self, within_s: float = _STOPS_WITHIN_S) -> None:
        self._end(signal.SIGTERM, within_s)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Returns when every thread of it stands still, which takes a moment."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        threads = pathlib.Path(f"/proc/{self._process.pid}/task")
        while any("State:\tT" not in (one / "status").read_text() for one in threads.iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def await_ready(self) -> None:
        """RuntimeError with the end of its output when it does not come up."""
        give_up_at = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < give_up_at:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1.0):
                if b"Kafka Server started" in self.log.read_bytes()[self._said_before :]:
                    return
            time.sleep(0.1)
        said = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"Kafka node {self._number} did not come up:\n{said}")

    def _end(self, how: signal.Signals, within_s: float = _STOPS_WITHIN_S) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Cluster:
    """Nodes that know each other. settings: on top of those below, for all nodes. at: ports, of each node the clients'
    and the controllers'; free ones unless given. doors: further listeners of the first node, by name with their
    security protocol; `settings` says what they need. host: an address of this machine, where clients find the nodes.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        at: Sequence[int] | None = None,
        *,
        doors: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        jvm_option: str = "",
    ) -> None:
        doors, jvm_option = doors or {}, jvm_option or f"-XX:SharedArchiveFile={classes()}"
        free = ports.free_ports(2 * nodes + len(doors))
        numbers = [*(at or free[: 2 * nodes]), *free[2 * nodes :]]
        self._host = host
        self._doors = dict(zip(doors, numbers[2 * nodes :], strict=True))
        voters = ",".join(f"{number + 1}@127.0.0.1:{numbers[2 * number + 1]}" for number in range(nodes))
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **doors}
        self.nodes = []
        for number in range(nodes):
            client, controller = numbers[2 * number], numbers[2 * number + 1]
            where = folder / f"node-{number + 1}"
            open_to_clients = {"PLAINTEXT": client, **(self._doors if number == 0 else {})}
            advertised = ",".join(f"{name}://{host}:{port}" for name, port in open_to_clients.items())
            of_node = {
                "node.id": str(number + 1),
                "listeners": f"{advertised},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": advertised,
                "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
                "controller.quorum.voters": voters,
                "log.dirs": str(where / "data"),
            }
            of_node |= settings or {}
            self.nodes.append(
                Node(where, number + 1, {**_settings(nodes), **of_node}, (host, client), jvm_option=jvm_option)
            )

    def door(self, name: str) -> str:
        """The address of a further listener."""
        return f"{self._host}:{self._doors[name]}"

    @property
    def address(self) -> str:
        return ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.await_ready()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def data_bytes(cluster: Cluster, prefix: str) -> int:
    """What topics with this prefix take on the disks of all nodes."""
    return sum(
        path.stat().st_size for node in cluster.nodes for path in node.data.glob(f"{prefix}*/*.log") if path.is_file()
    )


def _settings(nodes: int) -> dict[str, str]:
    copies = str(min(3, nodes))
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": "1",
        "default.replication.factor": copies,
        "group.initial.rebalance.delay.ms": "0",
        # the largest record of any topic with its key and headers, and room for the batch around it
        "message.max.bytes": str(10 * 1024 * 1024),
        "replica.fetch.max.bytes": str(10 * 1024 * 1024),
        # soon, so that a test sees it
        "log.retention.check.interval.ms": "300",
        "log.cleaner.backoff.ms": "200",
        "log.segment.delete.delay.ms": "100",
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        "num.network.threads": "2",
        "num.io.threads": "2",
    }


def _java(main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    return ["java", *options, "-cp", f"{libraries()}/*", main, *arguments]


def run_java(main: str, *arguments: str) -> str:
    """What a tool of Kafka's says on standard output; RuntimeError with all it said when it fails."""
    done = subprocess.run(_java(main, *arguments, options=("-Xmx256m",)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{main} failed: {done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def running(
    nodes: int = 1,
    settings: Mapping[str, str] | None = None,
    doors: Mapping[str, str] | None = None,
    *,
    host: str = "127.0.0.1",
    at: Sequence[int] | None = None,
) -> Iterator[Cluster]:
    """A cluster of its own for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="trimtab-kafka-") as folder:
        cluster = Cluster(pathlib.Path(folder), nodes, settings, at, doors=doors, host=host)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make kafka", description="A Kafka cluster on this machine, until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=1, help="Brokers, each a controller too.")
    asked = parser.parse_args()
    with running(asked.nodes) as cluster:
        sys.stdout.write(f"kafka://{cluster.address}\nCtrl-C ends it and throws its data away.\n")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # nobody's kill leaves a JVM behind
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        for again in (signal.SIGINT, signal.SIGTERM):  # once is enough
            signal.signal(again, signal.SIG_IGN)


if __name__ == "__main__":
    main()
