package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

func tune() {
	c, _ := os.ReadFile("/proc/cmdline")
	for _, a := range strings.Fields(string(c)) {
		if v, ok := strings.CutPrefix(a, "x.procs="); ok {
			n, _ := strconv.Atoi(v)
			runtime.GOMAXPROCS(n)
		}
		if v, ok := strings.CutPrefix(a, "x.slack="); ok {
			es, _ := os.ReadDir("/proc/self/task")
			for _, e := range es {
				if e.Name() != "1" {
					println("slack", e.Name())
					if err := os.WriteFile("/proc/"+e.Name()+"/timerslack_ns", []byte(v), 0); err != nil {
						println(err.Error())
					}
					break
				}
			}
		}
	}
}
