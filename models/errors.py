"""The root of every error that is the caller's to mend."""


class HardrankError(Exception):
    """A mistake in what was asked or given; the message names the cause and the mend in a sentence or two.

    Entry points print it without a stack trace; servers map its subclasses to 4xx answers.
    """
