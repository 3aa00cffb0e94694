"""The way into the tool: from the words of a command line to an exit status.

The main thread enters here, and the event loop runs on it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from enterprise.tool.command import Command, Tool
from enterprise.tool.complaint import complaint
from enterprise.tool.demo import DemoOptions
from threadable import usage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EnterpriseOptions", "main"]

# As a shell reports a process that a signal ended: 128 and the signal's number.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class EnterpriseOptions(Tool):
    """The command line of `enterprise`."""

    subCommands = (  # noqa: N815 - the old vocabulary
        ("demo", None, DemoOptions, DemoOptions.summary),
    )
    longdesc = (
        "Exit status: 0 done; 1 something was wrong, and the reason is on standard "
        "error; 130 interrupted by Ctrl-C. 'enterprise <command> --help' tells about "
        "a command."
    )

    def postOptions(self) -> None:
        """Insist on a command."""
        if self.subCommand is None:
            names = ", ".join(row[0] for row in self.subCommands)
            raise usage.UsageError(
                f"No command was given, so there is nothing to do. Commands are "
                f"{names}; see --help."
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: the words after the program's name; None takes those of the process.

    Returns:
        the exit status: 0 done, 1 something was wrong, 130 interrupted, 143 told to
        terminate. The reason is one line on standard error.

    Raises:
        SystemExit: `--help` or `--version` was given.
    """
    _log_errors_of_ours()
    try:
        options = EnterpriseOptions()
        options.parseOptions(argv)
        asyncio.run(_run(options.subOptions))
    except KeyboardInterrupt:
        return _failed("Interrupted.", INTERRUPTED)
    except asyncio.CancelledError:
        return _failed("Terminated.", TERMINATED)
    except Exception as error:
        return _failed(complaint(error), 1)
    return 0


async def _run(command: usage.Options | None) -> None:
    loop, itself = asyncio.get_running_loop(), asyncio.current_task()
    if itself is not None:
        # SIGTERM is no reason to leave tables behind. Not every platform can.
        with suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGTERM, itself.cancel)
    if isinstance(command, Command):
        await command.run()


def _log_errors_of_ours() -> None:
    """Show what nobody else reports, and hide what drivers remark about their end.

    It would stand between the bars, and beside the one reason.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("enterprise: %(message)s"))
    for name in ("asyncio", "enterprise", "threadable", "threadpool"):
        logging.getLogger(name).addHandler(handler)


def _failed(reason: str, status: int) -> int:
    print(f"enterprise: {reason}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
