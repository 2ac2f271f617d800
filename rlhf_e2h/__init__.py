"""Easy-to-hard RLHF: train reward models on easy problems, optimise policies on hard ones."""

__version__ = "0.1.0"
