"""How many cases are tried?"""

from hypothesis import settings

settings.register_profile("fuzz", settings.get_profile("repeatable"), max_examples=10_000, derandomize=False)
