"""What holds for all tests."""

from hypothesis import settings

# No deadline: on a loaded machine one slow example says nothing.
settings.register_profile("drtune", deadline=None)
settings.load_profile("drtune")
