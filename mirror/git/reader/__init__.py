"""Reading what strangers wrote: processes that parse it, the questions put to them, and who may ask next."""
