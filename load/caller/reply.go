package main

import (
	"slices"
	"time"
)

// frameLate is how far behind the schedule a frame may come before a listener hears a gap.
const frameLate = 20 * time.Millisecond

type arrival struct {
	seq int64
	at  time.Duration
}

// heard is a reply as it came.
type heard struct {
	number     int
	id         string
	turnID     string
	turn       int  // that it answered; 0: none of ours
	early      bool // it began while the person still spoke
	generation int64
	arrivals   []arrival // of the present generation
	late       []time.Duration
	lost       int
	frames     int
	firstAt    time.Duration
	lastAt     time.Duration
	flushed    bool // since then, nothing of it came
	flushedAt  time.Duration
	done       bool
	doneAt     time.Duration
}

// frame takes a frame; rows gets every frame of a generation that ended thereby.
func (h *heard) frame(at time.Duration, generation, seq int64, rows func(arrival, time.Duration)) {
	if h.frames == 0 {
		h.firstAt = at
	} else if generation != h.generation {
		h.endGeneration(rows)
	}
	h.generation = generation
	h.frames++
	h.lastAt = at
	h.flushed = false
	h.arrivals = append(h.arrivals, arrival{seq, at})
}

// endGeneration turns the arrivals of a generation into lateness.
func (h *heard) endGeneration(rows func(arrival, time.Duration)) {
	late, lost := lateness(h.arrivals)
	for i, l := range late {
		rows(h.arrivals[i], l)
	}
	h.late = append(h.late, late...)
	h.lost += lost
	h.arrivals = h.arrivals[:0]
}

// lateness of frames as a listener has it: against real time, through the frame that was the furthest
// ahead so far since the last gap. Frames of the lead, which come as fast as they are made, are never late
// by each other. A frame that is late leaves a gap, once: what follows is played from there on. Lost frames
// are those in between.
func lateness(arrivals []arrival) (late []time.Duration, lost int) {
	late = make([]time.Duration, len(arrivals))
	var anchor time.Duration
	for i, a := range arrivals {
		if own := a.anchor(); i == 0 || own < anchor {
			anchor = own
			continue
		}
		late[i] = a.at - (anchor + time.Duration(a.seq)*frameTime)
		if late[i] > frameLate {
			anchor = a.anchor()
		}
	}
	if len(arrivals) > 0 {
		lost = int(arrivals[len(arrivals)-1].seq-arrivals[0].seq) + 1 - len(arrivals)
	}
	return late, max(0, lost)
}

// anchor is when frame 0 would have come, had all come as this one.
func (a arrival) anchor() time.Duration { return a.at - time.Duration(a.seq)*frameTime }

// samples are those of a reply that ended.
func (h *heard) samples() []sample {
	if len(h.late) == 0 {
		return nil
	}
	slices.Sort(h.late)
	over := h.lost
	for i := len(h.late) - 1; i >= 0 && h.late[i] > frameLate; i-- {
		over++
	}
	return []sample{
		{h.turn, "frames", float64(h.frames), true, ""},
		{h.turn, "frames_late", float64(over), true, ""},
		{h.turn, "frame_jitter", inMs(quantile(h.late, 0.99)), true, ""},
	}
}
