"""The `trimtab` command. Starts a process, or hands over to the commands people type.

A process reads its settings before anything heavy is imported (`trimtab policy --help` answers at once) and hands them
to its composition root, `trimtab.NAME.app`. The other commands are in `cli.commands.root`.
"""

import contextlib
import importlib
import sys

PROCESSES = ("gateway", "policy", "reward", "feedback", "ledger", "trainer", "rollout")
# Names of processes that are groups of people's commands as well: their help shows both.
GROUPS = ("feedback", "rollout")


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    # `trimtab feedback import …` is a person's command; `trimtab feedback --listen …` is the process
    if arguments and arguments[0] in PROCESSES and (len(arguments) == 1 or arguments[1].startswith("-")):
        if arguments[0] in GROUPS and "--help" in arguments:
            with contextlib.suppress(SystemExit):
                _run_commands([arguments[0], "--help"])
            sys.stdout.write(f"\n`trimtab {arguments[0]}` with flags alone is the process of that name:\n\n")
        _run_process(arguments[0], arguments[1:])
    else:
        _run_commands(arguments)


def _run_commands(arguments: list[str]) -> None:
    from trimtab.cli.commands import root

    root.run(arguments)


def _run_process(name: str, flags: list[str]) -> None:
    settings = importlib.import_module(f"trimtab.{name}.settings")
    config = getattr(settings, f"{name.title()}Settings").load(flags, name)
    importlib.import_module(f"trimtab.{name}.app").main(config)


if __name__ == "__main__":
    main()
