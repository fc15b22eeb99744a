"""The pure core: values, formats and rules. Nothing in it touches a disk, a network or the clock."""
