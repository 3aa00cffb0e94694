"""What all commands of the tool have in common. The main thread reads them."""

from __future__ import annotations

from threadable import usage

__all__ = ["Command", "Tool"]


class Tool(usage.Options):
    """Options that know which version of the distribution they belong to."""

    def opt_version(self) -> None:
        """Display the version and exit."""
        from importlib import metadata  # 25 ms, and rarely wanted

        self.version = metadata.version("threadbridge")
        super().opt_version()


class Command(Tool):
    """One command of the tool: its options, and what it does with them."""

    async def run(self) -> None:
        """Do it, after parsing. Cancelled by Ctrl-C, it cleans up and goes.

        Raises:
            Exception: what went wrong; the text is written for the person at the
                shell, who sees nothing else of it.
        """
        raise NotImplementedError
