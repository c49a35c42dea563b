"""The `trimtab` command. Starts a process, or hands over to the commands people type.

A process reads its settings before anything heavy is imported (`trimtab policy --help` answers at once) and hands them
to its composition root, `trimtab.NAME.app`. The other commands are in `cli.commands`.
"""

import importlib
import sys

PROCESSES = ("gateway", "policy", "reward", "feedback", "ledger", "trainer", "rollout")


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    # `trimtab feedback import …` is a person's command; `trimtab feedback --listen …` is the process
    if arguments and arguments[0] in PROCESSES and (len(arguments) == 1 or arguments[1].startswith("-")):
        _run_process(arguments[0], arguments[1:])
        return
    from trimtab.cli import commands

    commands.run(arguments)


def _run_process(name: str, flags: list[str]) -> None:
    settings = importlib.import_module(f"trimtab.{name}.settings")
    config = getattr(settings, f"{name.title()}Settings").load(flags, name)
    importlib.import_module(f"trimtab.{name}.app").main(config)


if __name__ == "__main__":
    main()
