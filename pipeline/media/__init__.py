"""Images, videos and depth files, in and out, and the queues that keep decoding ahead of the work."""
