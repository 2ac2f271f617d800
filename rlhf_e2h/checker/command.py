"""Placeholder until the real command lands."""


def add_arguments(parser): ...


def run(args) -> int:
    return 0
