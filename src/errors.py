"""What a user has to be told. Any other exception is a fault of ours and shows its traceback."""


class UserError(ValueError):
    """A flag, a file or a setting that the user can put right.

    Its message is one line that names the flag or the file, says what was found, what was expected and what to do.
    ``runp.py`` prints that line and leaves with status 2.
    """


class WriteError(UserError):
    """A file cannot be written: the disk is full, read-only or gone. What was there before is untouched."""


class LostFile(UserError):
    """A file of the data set that has gone or broken since the run began."""


class Diverged(UserError):
    """A training's loss, weights or predictions are not finite."""


def reason_of(error: Exception) -> str:
    """What an error says, on one line: an OSError in the system's words, any other by its message or its type."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
