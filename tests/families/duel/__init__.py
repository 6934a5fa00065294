"""A network family that exists only in the tests."""
