"""The gateway process, the public door: builds its parts and hands them down. `main` is the command `trimtab gateway`.

A question goes `routes` (HTTP) or `servicer` (gRPC) -> `answering` -> `routing`, then to a policy process; a vote goes
through the same doors -> `voting`, then to the feedback process. What is live comes from topic `rollouts`.
docs/concepts/completion.md follows one question.
"""

import functools
import threading

import trimtab_client
from trimtab.bus import fold, port, topics
from trimtab.core import releases
from trimtab.gateway import answering, auth, channels, http_server, routes, routing, servicer, voting
from trimtab.gateway import settings as gateway_settings
from trimtab.rpc import process, secrets
from trimtab.wire import schemas


def build(settings: gateway_settings.GatewaySettings) -> process.Process:
    """The process, ready to run."""
    known = secrets.load(settings.secrets_file)
    made = process.Process("gateway", settings, authenticate=functools.partial(auth.tenant_of_key, known))
    log = made.open_log()
    open_channel = functools.partial(trimtab_client.connect, token=known.internal_token, assigns_ids=True)
    policies = channels.Channels(open_channel, grace_s=settings.policy_deadline_s)
    services = channels.Channels(open_channel, grace_s=settings.feedback_deadline_s)
    made.on_close(policies.close)
    made.on_close(services.close)
    table = routing.Routes()
    answers = answering.Answering(
        table,
        policies,
        ring=known.signing,
        hash_key=known.hash_key,
        deadline_s=settings.policy_deadline_s,
        config_digest=settings.digest(),
    )
    votes = voting.Voting(
        services, settings.feedback_address, hash_key=known.hash_key, deadline_s=settings.feedback_deadline_s
    )
    _follow_routes(made, log, table)
    _open_doors(made, settings, routes.Door(answers, votes, table, known, settings.max_body_bytes))
    return made


def _follow_routes(made: process.Process, log: port.EventLog, table: routing.Routes) -> None:
    is_known = made.add_readiness("routes")

    def apply(record: port.Record) -> None:
        if record.value:  # a release that compaction forgot routes nobody
            table.apply(schemas.decode(record.value, record.headers, releases.Release))

    def on_caught_up() -> None:
        table.caught_up.set()
        is_known()

    def follow(stop: threading.Event) -> None:
        fold.follow(log, topics.ROLLOUTS, apply, stop, on_caught_up, process="gateway")

    made.add_thread("routes", follow)


def _open_doors(made: process.Process, settings: gateway_settings.GatewaySettings, door: routes.Door) -> None:
    http = http_server.HttpServer(
        door.application(), settings.http_listen, settings.http_address_file, settings.drain_s
    )
    http.bind()
    made.on_close(http.close)
    made.add_task("http", http.run, intake=True)
    feedback_door = servicer.FeedbackServicer(door.votes)
    policy_door = servicer.PolicyServicer(door.answers)
    made.add_service(feedback_door.register, servicer.FEEDBACK_SERVICE)
    made.add_service(policy_door.register, servicer.POLICY_SERVICE)


def main(config: gateway_settings.GatewaySettings) -> None:
    process.launch(config, "gateway", build)
