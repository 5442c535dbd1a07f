"""Which samples a rank takes in which step: pure functions of the configuration and the position."""
