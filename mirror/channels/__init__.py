"""Ways to tell people outside the pages: mail, signed webhooks, chat. An edge."""
