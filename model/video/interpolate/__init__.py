"""More frames for a film: which instants are made, from which frames, by which engine, and how they are written."""
