"""Programs as answers (the paper's APPS experiment): a sandbox, tests as labels, strict and average accuracy."""
