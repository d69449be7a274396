"""Real use in a replay: what pods use, what is learned from it, and the mechanisms that overcommit."""
