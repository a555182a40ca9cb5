package main

import (
	"testing"
	"time"
)

// paced are frames as a server sends them that keeps `lead` ahead, each `shift` later than that.
func paced(count int, lead time.Duration, shift func(seq int) time.Duration) []arrival {
	frames := make([]arrival, count)
	for i := range frames {
		due := max(0, time.Duration(i)*frameTime-lead)
		frames[i] = arrival{int64(i), time.Second + due + shift(i)}
	}
	return frames
}

func none(int) time.Duration { return 0 }

func TestPunctualFramesAreNotLateWhateverTheLead(t *testing.T) {
	for _, lead := range []time.Duration{0, 60 * time.Millisecond, 200 * time.Millisecond} {
		late, lost := lateness(paced(100, lead, none))
		for i, l := range late {
			if l != 0 {
				t.Fatalf("lead %v: frame %d is %v late", lead, i, l)
			}
		}
		if lost != 0 {
			t.Fatalf("lost %d", lost)
		}
	}
}

func TestJitterIsMeasuredAgainstTheEarliestFrame(t *testing.T) {
	frames := paced(100, 60*time.Millisecond, func(seq int) time.Duration {
		if seq == 50 {
			return 0
		}
		return 7 * time.Millisecond
	})
	late, _ := lateness(frames)
	if late[50] != 0 || late[60] != 7*time.Millisecond {
		t.Fatalf("got %v and %v", late[50], late[60])
	}
}

func TestAGapIsOneLateFrame(t *testing.T) {
	frames := paced(100, 60*time.Millisecond, func(seq int) time.Duration {
		if seq < 40 {
			return 0
		}
		return 75 * time.Millisecond
	})
	late, _ := lateness(frames)
	for i, l := range late {
		if want := map[bool]time.Duration{true: 75 * time.Millisecond}[i == 40]; l != want {
			t.Fatalf("frame %d: %v late, not %v", i, l, want)
		}
	}
}

func TestAServerThatSendsTooSlowlyIsLateAgainAndAgain(t *testing.T) {
	late, _ := lateness(paced(200, 0, func(seq int) time.Duration { return time.Duration(seq) * 5 * time.Millisecond }))
	over := 0
	for _, l := range late {
		if l > frameLate {
			over++
		}
	}
	if over < 30 {
		t.Fatalf("only %d frames of 200 at 25 ms each are late", over)
	}
}

func TestLostFramesAreCountedAsLate(t *testing.T) {
	h := &heard{}
	for _, a := range paced(50, 0, none) {
		if a.seq < 20 || a.seq >= 23 {
			h.frame(a.at, 1, a.seq, func(arrival, time.Duration) {})
		}
	}
	h.endGeneration(func(arrival, time.Duration) {})
	for _, s := range h.samples() {
		if s.name == "frames_late" && s.ms != 3 {
			t.Fatalf("%v frames late, not the 3 lost ones", s.ms)
		}
	}
}

func TestQuantileIsOfTheValuesThemselves(t *testing.T) {
	values := make([]time.Duration, 100)
	for i := range values {
		values[i] = time.Duration(i + 1)
	}
	if q := quantile(values, 0.99); q != 99 {
		t.Fatalf("p99 of 1..100 is %d", q)
	}
	if q := quantile(values[:1], 0.99); q != 1 {
		t.Fatalf("p99 of one value is %d", q)
	}
}

func TestFramesOfTheLeadMayComeAsTheyAreMade(t *testing.T) {
	var frames []arrival
	for seq, ms := range []int{0, 8, 8, 8, 30, 48, 71} {
		frames = append(frames, arrival{int64(seq), time.Duration(ms) * time.Millisecond})
	}
	late, _ := lateness(frames)
	// The fourth is the furthest ahead, and sets the time for those behind it: 28, 48, 68 ms.
	for seq, ms := range []int{0, 0, 0, 0, 2, 0, 3} {
		if late[seq] != time.Duration(ms)*time.Millisecond {
			t.Errorf("frame %d: %v late, want %d ms", seq, late[seq], ms)
		}
	}
}
