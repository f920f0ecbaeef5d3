"""WebSockets: programs of a machine while they run.

admission   who is let in, and how others are told     wire       what a running program and its client say to each other
routes      the addresses
"""
