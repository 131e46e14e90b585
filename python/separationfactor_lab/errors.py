"""The base of the errors that a user can mend."""


class LabError(Exception):
    """What was asked for cannot be done. The message names the cause and what was expected.

    The commands print the message as one line, without a traceback.
    """
