"""Who may do what: callers and their scopes, keys, the password, browser sessions.

    callers     scopes, quotas, a caller         file        <storage>/auth.json, which holds all that lasts
    keys        API keys                         sessions    what a browser gets for the password
    gatekeeper  from a request to its caller     attempts    how often a password may be tried

Authentication is off until there is an ``auth.json``.
"""
