package main

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"
)

const (
	flushEvery    = 50 * time.Millisecond
	maxEventBytes = 8 << 20
)

// sample is one measured value of one caller.
type sample struct {
	turn int
	name string
	ms   float64
	ok   bool
	why  string
}

// emitter writes events as lines, together every 50 ms, and never waits for a reader.
type emitter struct {
	mu      sync.Mutex
	pending []byte
	dropped int
	out     io.Writer
	stop    chan struct{}
	done    chan struct{}
}

func newEmitter(out io.Writer) *emitter {
	e := &emitter{out: out, stop: make(chan struct{}), done: make(chan struct{})}
	go e.run()
	return e
}

func (e *emitter) run() {
	defer close(e.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var writing []byte
	for open := true; open; {
		select {
		case <-tick.C:
		case <-e.stop:
			open = false
		}
		e.mu.Lock()
		writing, e.pending = e.pending, writing[:0]
		e.mu.Unlock()
		if len(writing) > 0 {
			if _, err := e.out.Write(writing); err != nil {
				return
			}
		}
	}
}

func (e *emitter) close() {
	close(e.stop)
	select {
	case <-e.done:
	case <-time.After(time.Second):
	}
}

func (e *emitter) line(build func([]byte) []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) > maxEventBytes {
		e.dropped++
		return
	}
	e.pending = append(build(e.pending), '\n')
}

func (e *emitter) sample(id int64, at time.Duration, s sample) {
	e.line(func(b []byte) []byte {
		b = append(b, `{"e":"sample","id":`...)
		b = strconv.AppendInt(b, id, 10)
		b = append(b, `,"t":`...)
		b = strconv.AppendFloat(b, unixSeconds(at), 'f', 4, 64)
		b = append(b, `,"turn":`...)
		b = strconv.AppendInt(b, int64(s.turn), 10)
		b = append(b, `,"name":"`...)
		b = append(b, s.name...)
		b = append(b, `","ms":`...)
		b = strconv.AppendFloat(b, s.ms, 'f', 3, 64)
		return appendOutcome(b, s.ok, s.why)
	})
}

func (e *emitter) ended(id int64, why string, ok bool) {
	e.line(func(b []byte) []byte {
		b = append(b, `{"e":"ended","id":`...)
		b = strconv.AppendInt(b, id, 10)
		return appendOutcome(b, ok, why)
	})
}

func appendOutcome(b []byte, ok bool, why string) []byte {
	b = append(b, `,"ok":`...)
	b = strconv.AppendBool(b, ok)
	b = append(b, `,"why":`...)
	quoted, _ := json.Marshal(why) // a string always marshals
	b = append(b, quoted...)
	return append(b, '}')
}

// self is what the program says of itself every second.
type self struct {
	E           string  `json:"e"`
	T           float64 `json:"t"`
	CPU         float64 `json:"cpu_s"`
	SendLateP99 float64 `json:"send_late_p99_ms"`
	SendLateMax float64 `json:"send_late_max_ms"`
	FramesSent  int     `json:"frames_sent"`
	Callers     int     `json:"callers"`
	HeldBack    int64   `json:"held_back"`
	Dropped     int     `json:"events_dropped"`
}

func (e *emitter) self(s self) {
	e.mu.Lock()
	s.Dropped = e.dropped
	e.mu.Unlock()
	s.E = "self"
	line, _ := json.Marshal(s) // plain numbers always marshal
	e.line(func(b []byte) []byte { return append(b, line...) })
}
