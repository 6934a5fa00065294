"""The networks and what trains and measures them. Of `pipeline` they use the optics, the raw-frame reading and the contract."""

import pipeline  # noqa: F401  before PyTorch, since it decides how PyTorch's threads wait
