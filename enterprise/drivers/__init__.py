"""One room for each kind of driver: all that differs from one database to the next."""
