"""Reading untrusted repository content: the processes that parse it, their questions, and who asks next."""
