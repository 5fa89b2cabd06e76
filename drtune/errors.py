"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in what the user gave: one line that names the thing, its value and the fix.

    Commands print it without a traceback and exit with `exit_code`; every other exception is a fault of ours and shows
    its own.
    """

    exit_code = 2
