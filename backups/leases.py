"""Placeholder until the next commit."""


def acknowledge_early(**_: object) -> None: ...
