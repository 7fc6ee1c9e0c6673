"""The training loop: the driver, group rollouts, the buffer and the metrics of a step."""
