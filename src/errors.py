"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """A flag, a file or a setting that the user can put right.

    Its message is one line that names the flag or the file, says what was found, what was expected and what to do.
    ``runp.py`` prints that line and leaves with status 2.
    """
