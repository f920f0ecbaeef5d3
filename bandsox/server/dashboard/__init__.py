"""The dashboard: a single-page application, served as the files that ``dashboard/`` was built into.

pages    the addresses that lead to it, and what its browser may do there
assets   the built files: which there are, and which form of one a browser takes
"""
