module bandsox.dev/agent/hostile

go 1.24.0

require (
	bandsox.dev/agent v0.0.0
	golang.org/x/sys v0.36.0
)

require (
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
)

replace bandsox.dev/agent => ../../../bandsox/agent
