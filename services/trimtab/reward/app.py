"""The reward process: builds its parts and hands them down. `main` is the console command `trimtab reward`.

A request goes `servicer` -> `scoring` (a queue before one thread) -> `shelf` (the models in memory); `catalog` knows
from topic `models` which there are. A training job calls it where its run names it as `scorer`; others load their
reward model themselves.
"""

import functools
import pathlib
import threading

from trimtab import registry
from trimtab.bus import fold, topics
from trimtab.reward import catalog, scoring, servicer, settings, shelf
from trimtab.rpc import process


def main(config: settings.RewardSettings) -> None:
    """Runs the reward service until SIGTERM."""
    process.launch(config, "reward", build)


def build(config: settings.RewardSettings) -> process.Process:
    """The process, ready to run."""
    reward = process.Process("reward", config)
    log = reward.open_log()
    artifacts = registry.Registry(config.registry_url, config.cache)
    known = catalog.Catalog()
    loaded = shelf.Shelf(artifacts, functools.partial(_load, config.threads), config.max_loaded)
    domain = scoring.Scoring(
        known, loaded, max_items=config.max_items, max_queued=config.max_queued, batch=config.batch
    )
    reward.add_service(servicer.RewardServicer(domain).register, servicer.FULL_NAME)
    ready = reward.add_readiness("models")

    def follow(stop: threading.Event) -> None:
        fold.follow(log, topics.MODELS, known.apply, stop, ready, process="reward")

    reward.add_thread("models", follow)
    reward.add_thread("scoring", domain.run)
    return reward


def _load(threads: int, folder: pathlib.Path) -> shelf.RewardModel:
    # Late: importing torch takes seconds, and a process that only lists models never needs it.
    import torch

    from trimtab.modeling import rewards

    torch.set_num_threads(threads)
    return rewards.load_reward_model(folder)
