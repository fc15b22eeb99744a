"""The pages of a team: what its repos need, keep and cost, and who may do what."""
