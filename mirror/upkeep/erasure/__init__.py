"""What shall be gone: a repo, a team, a person, one object of all history."""
