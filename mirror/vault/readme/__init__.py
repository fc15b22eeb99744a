"""The vault's own README for a person who finds it: how to restore without Everref."""
