"""Pages and programs of guests, for browsers and other clients: HTTP and WebSockets to ports of machines.

It listens on a port of its own, so that a guest's page is of another origin than the API and cannot act as the user (the API takes requests
of no other origin's pages). It needs no network of the machine.

    entrance   which machine and port are meant, and who may reach them     passes     what a browser shows for that
    exchange   a request and its answer                                     sockets    a WebSocket
    headers    what is handed on, and what is not
"""
