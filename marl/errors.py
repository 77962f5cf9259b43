"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """Wrong input. The message is one clear line: the cause, and the way out; commands exit with code 2."""
