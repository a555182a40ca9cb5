package main

import "time"

const slowFactor = 2

// reader makes a caller read slower than sound comes, or not at all for a while.
type reader struct {
	plan    *plan
	done    <-chan struct{}
	next    time.Duration
	stalled bool
}

func newReader(p *plan, done <-chan struct{}) *reader { return &reader{plan: p, done: done} }

// after waits as the plan says once a message was read.
func (r *reader) after(audio bool) {
	if !audio {
		return
	}
	switch {
	case r.plan.Read == readSlow:
		r.next = max(r.next, now()) + slowFactor*frameTime
		r.sleep(r.next - now())
	case r.plan.Read == readStall && !r.stalled:
		r.stalled = true
		r.sleep(ms(r.plan.StallMs))
	}
}

func (r *reader) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.done:
	}
}
