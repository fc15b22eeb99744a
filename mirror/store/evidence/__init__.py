"""What was proved: signed statements, the keys that sign them, and checkpoints."""
