"""What can be typed: a module for each group of commands. They read arguments, everything else is elsewhere."""
