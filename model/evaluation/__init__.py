"""What is measured, on which clips, beside which baselines, and how it is shown."""
