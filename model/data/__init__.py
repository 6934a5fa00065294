"""What the networks learn from: generated scenes through the output contract, and real photograph pairs."""
