"""The remote client: the library's methods, results and errors, over HTTP and WebSocket.

    connection   requests, and what a failure of one means     faults     errors out of answers
    machine      a machine's handle                            guest      its agent: every operation as a request
    execution    a program while it runs                       streams    files and trees as bodies
    connecting   connections to ports

`bandsox.core.remote` is the front door to it.
"""
