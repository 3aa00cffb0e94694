"""A screen that nobody sees: Xvfb on a free display, reached by a unix socket only."""

from __future__ import annotations

import os
import subprocess

HOW_TO = (
    "The tests of the Tk adapter open a real window and need {missing}. On Debian: "
    "apt-get install python3-tk xvfb. A Python built by hand needs tk-dev when it is "
    "built."
)


class NoScreenError(Exception):
    """There is no Xvfb, or it did not start."""


class Screen:
    """A virtual screen; `name` is what DISPLAY would be."""

    def __init__(self):
        reader, writer = os.pipe()
        command = ["Xvfb", "-displayfd", str(writer), "-nolisten", "tcp"]
        command += ["-screen", "0", "640x480x24", "-noreset"]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[writer],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            os.close(reader)
            raise NoScreenError(HOW_TO.format(missing="Xvfb")) from error
        finally:
            os.close(writer)
        with os.fdopen(reader) as pipe:
            number = pipe.readline().strip()  # Empty when it has ended.
        if not number:
            self.close()
            raise NoScreenError("Xvfb ended before it had a display.")
        self.name = f":{number}"

    def close(self):
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=30)
