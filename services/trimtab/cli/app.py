"""The `trimtab` command. Starts a process, or hands over to the commands people type.

The seven processes are dispatched before anything heavy is imported: `trimtab policy --help` answers in well under a
second. The other commands are in `cli.commands`.
"""

import importlib
import sys

PROCESSES = ("gateway", "policy", "reward", "feedback", "ledger", "trainer", "rollout")


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    # `trimtab feedback import …` is a person's command; `trimtab feedback --listen …` is the process
    if arguments and arguments[0] in PROCESSES and (len(arguments) == 1 or arguments[1].startswith("-")):
        importlib.import_module(f"trimtab.{arguments[0]}.app").main(arguments[1:])
        return
    from trimtab.cli import commands

    commands.run(arguments)


if __name__ == "__main__":
    main()
