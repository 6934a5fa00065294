"""The trainer: steps, exact resume, signals, averages and logs, for any network."""
