"""The webhook receiver: verify, record, wish, answer."""
