"""The one exception that a user of the package is meant to read."""


class UserError(ValueError):
    """Something that the user can put right: one sentence saying what, where and what to do.

    The command line prints the sentence without a traceback; notebooks show it as the last line.
    """
