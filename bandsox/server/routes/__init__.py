"""The routes, one module for each subject. Each has a ``router``; `bandsox.server.application` lists them."""
