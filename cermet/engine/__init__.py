"""From a plan to files: blocks are read, worked on, and written; nothing is held whole."""
