package main

import (
	"sync"
	"time"
)

const (
	slotTime = time.Millisecond
	slots    = int(frameTime / slotTime)
	stride   = 7 // the first callers to join lie 7 ms apart
)

// ticked gets one call per 20 ms, with the time at which its frame is due.
type ticked interface{ tick(due time.Duration) }

// pacer drives all callers from one goroutine. Callers are spread over the twenty 1 ms slots of a frame;
// a slot that comes late is caught up with, so that no caller's schedule ever drifts.
type pacer struct {
	mu    sync.Mutex
	slots [slots][]ticked
	news  chan struct{}
	begin time.Duration
}

func newPacer() *pacer {
	p := &pacer{news: make(chan struct{}, 1), begin: now()}
	go p.run()
	return p
}

func (p *pacer) join(t ticked) {
	p.mu.Lock()
	best := 0
	for i := range p.slots {
		if slot := i * stride % slots; len(p.slots[slot]) < len(p.slots[best]) {
			best = slot
		}
	}
	p.slots[best] = append(p.slots[best], t)
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
}

func (p *pacer) leave(t ticked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, slot := range p.slots {
		for j, other := range slot {
			if other == t {
				kept := make([]ticked, 0, len(slot)-1) // the run may be walking over the old one
				p.slots[i] = append(append(kept, slot[:j]...), slot[j+1:]...)
				return
			}
		}
	}
}

// next finds the first slot with callers at or after number n; false when there are none at all.
func (p *pacer) next(n int64) (int64, []ticked, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ahead := range int64(slots) {
		if callers := p.slots[(n+ahead)%int64(slots)]; len(callers) > 0 {
			return n + ahead, callers, true
		}
	}
	return n, nil, false
}

func (p *pacer) run() {
	timer := time.NewTimer(time.Hour)
	for n := int64(0); ; n++ {
		found, callers, any := p.next(n)
		if !any {
			<-p.news
			n = max(n, int64((now()-p.begin)/slotTime))
			continue
		}
		due := p.begin + time.Duration(found)*slotTime
		if wait := due - now(); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-p.news: // somebody joined, perhaps in an earlier slot; those until now were empty
				n = min(found, int64((now()-p.begin)/slotTime)+1) - 1
				continue
			}
		}
		n = found
		for _, caller := range callers {
			caller.tick(due)
		}
	}
}
