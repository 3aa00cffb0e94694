"""Speed, measured beside the peers.

A figure alone says more about the machine than about the code, so every figure here
is a ratio: we and the peers do the same work in the same run. Each contender runs in
a fresh process of its own (no shared warm caches, no threads left by another), they
take turns round by round, in alternating order (a slow minute of the machine hits
all of them), and the median over the rounds counts.

`python -m benchmarks --help` tells how to run it; docs/benchmarks.md shows the last
full run.

The rooms: `groups` is the list of what is measured and required, `contenders` holds
the work itself, `load` drives one contender, `child` is the process around that,
`schedule` starts the processes in turn, `report` and `plot` show what came out, `kept`
keeps it. `far` is a server's distance.
"""
