"""Settings of all tests."""

from hypothesis import settings

# The same examples everywhere, none remembered in the folder, and no example asserted to be fast.
settings.register_profile("marl", deadline=None, derandomize=True, database=None)
settings.load_profile("marl")
