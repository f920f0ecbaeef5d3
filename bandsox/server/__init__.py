"""The server: the library over HTTP and WebSocket, for other hosts, other languages and people.

A face over `bandsox.core` and nothing else: no operation is written here. It keeps nothing that the storage directory does not hold, so
machines outlive it, and several servers, scripts and command lines may work on one storage directory at once.

    configuration   where it listens, whom it trusts      running      the process: socket, signals, graceful stop
    application     the routes put together               service      what every route works with
    gate            Host, Origin, headers, who is calling guard        what each route demands of a caller, and how much it takes
    faults          errors as answers: the one table of status codes
    shapes          what requests and answers look like   replies      answers in JSON and MessagePack, streams, ranges
    auth/           keys, the password, browser sessions  routes/      one module for each subject

Its dependencies are those of ``pip install 'bandsox[server]'``.
"""
