"""Webhooks: others are told of changes with signed requests, at least once each, in order.

The queue is the journal itself (`bandsox.store.changes`): a webhook has a place in it, which goes on when a change was taken, or given
up. So nothing is lost when the server is killed, and it is bounded as the journal is; one that falls out of it is told so (``lost``).

    dispatcher   tells each webhook of its changes, and tries again
    message      what is sent, and how it is signed
    target       where it may be sent: not to this host nor to private networks, unless the operator allows it
"""
