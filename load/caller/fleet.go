package main

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// fleet holds all callers of the process.
type fleet struct {
	events    *emitter
	pacer     *pacer
	sendLate  sendLateness
	heldBack  atomic.Int64 // frames that the server did not take in time
	libraries libraries
	frames    frameFiles

	mu      sync.Mutex
	callers map[int64]*caller
	empty   *sync.Cond
}

func newFleet(events *emitter) *fleet {
	f := &fleet{events: events, pacer: newPacer(), callers: map[int64]*caller{}}
	f.libraries.known = map[string]*library{}
	f.frames.files = map[string]*frameFile{}
	f.empty = sync.NewCond(&f.mu)
	return f
}

func (f *fleet) obey(o order) {
	f.mu.Lock()
	defer f.mu.Unlock()
	present := f.callers[o.ID]
	switch {
	case o.Cmd == "stop":
		if present != nil {
			go present.stop()
		}
	case present != nil:
		f.events.ended(o.ID, "bad_command: this id is in use", false)
	case len(f.callers) >= maxCallers:
		f.events.ended(o.ID, "bad_command: this process carries no more callers; start another worker", false)
	default:
		o.Plan.Seed = seedOf(o.ID, o.Plan.Seed)
		c := newCaller(o.ID, o.Plan, f)
		f.callers[o.ID] = c
		go c.run()
	}
}

func (f *fleet) over(c *caller, why string, ok bool) {
	f.mu.Lock()
	delete(f.callers, c.id)
	if len(f.callers) == 0 {
		f.empty.Broadcast()
	}
	f.mu.Unlock()
	f.events.ended(c.id, why, ok)
}

func (f *fleet) hangUpAll(within time.Duration) {
	expired := false
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.callers {
		go c.stop()
	}
	timer := time.AfterFunc(within, func() {
		f.mu.Lock()
		expired = true
		f.empty.Broadcast()
		f.mu.Unlock()
	})
	defer timer.Stop()
	for len(f.callers) > 0 && !expired {
		f.empty.Wait()
	}
}

func (f *fleet) reportSelf(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		p99, greatest, frames := f.sendLate.take()
		f.mu.Lock()
		callers := len(f.callers)
		f.mu.Unlock()
		f.events.self(self{
			T: unixSeconds(now()), CPU: cpuSeconds(), SendLateP99: inMs(p99), SendLateMax: inMs(greatest),
			FramesSent: frames, Callers: callers, HeldBack: f.heldBack.Load(),
		})
		f.frames.flush()
	}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
