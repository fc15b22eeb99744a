"""The forges' own interfaces: who signs in, which repositories there are, and their webhooks."""
