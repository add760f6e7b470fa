"""Which real problems are there to try evohbde on?

A sibling of the package, found from a checkout and not installed: `problems.digits` (seconds on one core),
`problems.cifar` (CIFAR images), `problems.networks` (the architectures). A factory returns an `evohbde.data.Task`.
"""
