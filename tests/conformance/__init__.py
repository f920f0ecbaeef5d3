"""One suite for every face: what holds for the library must hold for the command line and for every VMM."""
