"""Scenarios against a real SLURM; cluster.py starts one."""
