"""The policy process: builds its parts and hands them down. `main` is the console command `trimtab policy`.

A request goes `servicer` -> `answering` -> the port `engine` (adapters `local`, over `modeling.decoder`, and
`remote`, over HTTP as `openai` or `tgi` say), and its record through `recorder` to topic `completions`.
`artifact` loads the one policy that a
process serves for life.
docs/concepts/completion.md follows one question.
"""

import functools

from trimtab import registry
from trimtab.policy import answering, artifact, beside, local, openai, recorder, remote, servicer, settings, tgi
from trimtab.rpc import process


def main(config: settings.PolicySettings) -> None:
    """Serves one policy until SIGTERM."""
    process.launch(config, "policy", build)


def build(config: settings.PolicySettings) -> process.Process:
    """The composition root."""
    made = process.Process("policy", config)
    log = made.open_log()
    engine = _engine(made, config)
    records = recorder.Recorder(log, wait_s=config.record_wait_s, spool=config.record_spool)
    answers = answering.Answering(engine, records, policy_id=config.model_id, line=config.line)
    made.on_close(functools.partial(records.close, config.drain_s))
    made.on_close(answers.close)
    made.add_service(servicer.PolicyServicer(answers).register, servicer.FULL_NAME)
    ready = made.add_readiness("policy")
    made.add_thread("engine", functools.partial(engine.run, on_loaded=ready))
    return made


def _engine(made: process.Process, config: settings.PolicySettings) -> local.LocalEngine | remote.RemoteEngine:
    there = registry.Registry(config.registry_url, config.cache)
    if config.engine == "local":
        load = functools.partial(artifact.load, there, config)
        return local.LocalEngine(load, max_batch=config.max_batch, max_queue=config.max_queue, context=config.context)
    server = beside.Started(config.engine_command) if config.engine_command else beside.Found(config.engine_url)
    most = config.max_batch + config.max_queue
    dialect = openai.OpenAI(server.url, max_open=most) if config.engine == "openai" else tgi.TGI(server.url)
    verify = functools.partial(artifact.verify, there, config)
    elsewhere = remote.RemoteEngine(verify, server, dialect, max_open=most, context=config.context)
    made.on_close(elsewhere.close)
    return elsewhere
