"""A trained network on a video: frames through the network, cuts, focus pulls."""
