"""The base class of all errors that a user can fix."""


class HardrankError(Exception):
    """Invalid input or configuration. The message names the cause and the remedy in one or two sentences.

    Commands print it without a traceback; servers map its subclasses to 4xx responses.
    """
