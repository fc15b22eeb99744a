"""People: accounts, teams, and what whoever runs Everref does for them."""
