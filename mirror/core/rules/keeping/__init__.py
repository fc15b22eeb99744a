"""What is kept, for how long, sealed to whom, at what cost."""
