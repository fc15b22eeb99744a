"""The JSON that programs read, one set for the API and the command line: values in, one shape out.

Names, targets and paths of git are bytes: where they are no UTF-8, their base64 is
given as well, under the same key with `_b64`. Times are RFC 3339 in UTC with microseconds, ids are strings.
"""
