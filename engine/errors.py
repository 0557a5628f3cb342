"""What can go wrong in a way that a user can mend: one class for each documented exit code."""


class EngineError(Exception):
    """An error told in one paragraph, without a traceback, ending the command with `code`."""

    code = 1


class RecipeError(EngineError):
    """The command line or the recipe is wrong; the text names the key, its value and the nearest right one."""

    code = 2


class DataError(EngineError):
    """The data cannot be read; the text names the folder or file."""

    code = 3


class MissingBackend(EngineError):
    """Something that was asked for is not installed or not usable here; the text says what to install."""

    code = 4


class Diverged(EngineError):
    """The loss is no longer finite; the text names the first bad tensor and the last good checkpoint."""

    code = 5


class OutOfMemory(EngineError):
    """The device has too little memory; the text gives the settings that need less."""

    code = 6


class Stopped(EngineError):
    """A signal asked for an end and everything was saved: the same command goes on from there."""

    code = 75
