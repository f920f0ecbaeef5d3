"""The remote client: the library's methods and results, over HTTP and WebSocket."""
