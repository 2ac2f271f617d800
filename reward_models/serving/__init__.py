"""HTTP server of a reward model: request shapes of existing servers as pure functions, batching, limits."""
