"""What is on disk: atomic files, the paths of the output contract, done records, journals, leases."""
