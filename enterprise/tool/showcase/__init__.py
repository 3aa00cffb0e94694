"""What `enterprise demo` shows: three kinds of work, each done in two ways.

`contest` says what a kind of work is, `characters` and `accounts` are the kinds,
`tables` is where they happen, `place` the database in which the tables are.
"""
