"""The base class of errors that the user can fix."""


class LabError(Exception):
    """A request cannot be fulfilled. The message names the cause and what was expected.

    The commands print the message in one line, without a traceback.
    """
