// Command parley-caller carries many callers of parley.v1, each with a connection of its own, on one core.
//
// Commands come as JSON lines on stdin, samples leave as JSON lines on stdout; see docs/decisions/load-callers.md.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	maxCallers   = 5000
	goodbye      = 6 * time.Second
	maxLineBytes = 1 << 20
)

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1) // one core carries hundreds; with more, idle ones search for work and cost as much again
	}
	debug.SetGCPercent(400) // the heap is a few megabytes of arrivals: collecting it less often costs nothing
	events := newEmitter(polled(os.Stdout))
	fleet := newFleet(events)
	stopSelf := make(chan struct{})
	go fleet.reportSelf(stopSelf)
	lines := bufio.NewScanner(polled(os.Stdin))
	lines.Buffer(make([]byte, 0, 64*1024), maxLineBytes)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		order, err := parseOrder(lines.Bytes())
		if err != nil {
			events.ended(order.ID, "bad_command: "+err.Error(), false)
			continue
		}
		if order.Cmd == "quit" {
			break
		}
		fleet.obey(order)
	}
	fleet.hangUpAll(goodbye)
	close(stopSelf)
	fleet.frames.close()
	events.close()
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "parley-caller: a command could not be read:", err)
		os.Exit(1)
	}
}

// polled makes a pipe one that is waited for like a socket. A read that blocks in the kernel keeps the only
// processor from everybody else until the runtime looks after it, which is up to 20 ms later.
func polled(file *os.File) *os.File {
	about, err := file.Stat()
	if err != nil || about.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return file
	}
	if syscall.SetNonblock(int(file.Fd()), true) != nil {
		return file
	}
	return os.NewFile(file.Fd(), file.Name())
}
