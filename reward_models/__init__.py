"""Outcome, process and combined reward models: train, score, rerank, serve, export."""
