"""Tools for AI agents (Model Context Protocol): machines that they make, run code in, save, clone and delete.

A face over `bandsox.core`. With stdio it serves whoever started it, with the rights that he has; over HTTP (streamable HTTP) it hands the
key of each request on to a server (`bandsox serve`), whose scopes, prefixes and quotas hold.

    tools      what an agent can do       serving    stdio and HTTP

Its dependency is that of ``pip install 'bandsox[mcp]'``.
"""
