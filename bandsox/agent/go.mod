module bandsox.dev/agent

go 1.24.0

require (
	github.com/cespare/xxhash/v2 v2.3.0
	github.com/vmihailenco/msgpack/v5 v5.4.1
	golang.org/x/sys v0.36.0
)

require github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
