"""What the vault says to a person who finds it: how to restore without Everref."""
