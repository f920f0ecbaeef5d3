"""One module for each command, or group of commands; `bandsox.cli.app` says which."""
