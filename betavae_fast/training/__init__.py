"""Training: the configuration, the loop, and the folder a run leaves behind. Import its modules by name;
this file imports none, so that the command line can read the defaults without loading torch."""
