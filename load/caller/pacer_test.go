package main

import (
	"sync"
	"testing"
	"time"
)

type drummer struct {
	mu  sync.Mutex
	due []time.Duration
	ten chan struct{}
}

func (d *drummer) tick(due time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due = append(d.due, due); len(d.due) == 10 {
		close(d.ten)
	}
}

func TestEveryCallerHasItsFrameEveryTwentyMilliseconds(t *testing.T) {
	p := newPacer()
	drummers := make([]*drummer, 5)
	for i := range drummers {
		drummers[i] = &drummer{ten: make(chan struct{})}
		p.join(drummers[i])
	}
	phases := map[time.Duration]bool{}
	for _, d := range drummers {
		<-d.ten
		p.leave(d)
		d.mu.Lock()
		for k := 1; k < 10; k++ {
			if step := d.due[k] - d.due[k-1]; step != frameTime {
				t.Fatalf("a frame came due %v after the last", step)
			}
		}
		phases[(d.due[0]-p.begin)%frameTime] = true
		d.mu.Unlock()
	}
	if len(phases) != len(drummers) {
		t.Fatalf("%d callers share %d slots of twenty", len(drummers), len(phases))
	}
}

func TestNobodyIsLateBeforeHavingJoined(t *testing.T) {
	p := newPacer()
	for range 12 { // into all kinds of slots, at all kinds of times
		joined := now()
		d := &drummer{ten: make(chan struct{})}
		p.join(d)
		time.Sleep(27 * time.Millisecond)
		d.mu.Lock()
		if len(d.due) == 0 || d.due[0] < joined-slotTime {
			t.Fatalf("joined at %v, and the first frame was due at %v", joined, d.due)
		}
		d.mu.Unlock()
	}
}

func TestTwiceAsManyCallersAsSlotsAreSpreadEvenly(t *testing.T) {
	p := &pacer{news: make(chan struct{}, 1)}
	for range 2 * slots {
		p.join(&drummer{})
	}
	for i, slot := range p.slots {
		if len(slot) != 2 {
			t.Fatalf("slot %d has %d callers", i, len(slot))
		}
	}
	p.leave(p.slots[3][0])
	if _, callers, _ := p.next(3); len(callers) != 1 {
		t.Fatalf("one left, and %d are there", len(callers))
	}
}

func TestASlotThatWasMissedIsNotSkipped(t *testing.T) {
	p := &pacer{news: make(chan struct{}, 1)}
	p.join(&drummer{})
	if n, _, any := p.next(1); !any || n != int64(slots) {
		t.Fatalf("the next frame of a caller in slot 0 is due in slot %d", n)
	}
	if n, _, _ := p.next(2 * int64(slots)); n != 2*int64(slots) {
		t.Fatal("a frame that is due now was not found")
	}
}
