"""The `enterprise` command: what a person at a shell can do with a database.

Everything here runs in a process of its own. `main` reads the command line and turns
whatever happens into an exit status; a command is a class in a room of its name.
"""
