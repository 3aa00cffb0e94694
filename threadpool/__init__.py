"""First floor: Deferreds, the pending-event queue, and a bounded pool of threads."""
