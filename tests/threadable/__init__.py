"""The ground floor: the switch, synchronized methods, hooks, reflection, options."""
