package main

import "time"

// turn is what the person says until its reply was heard out, was interrupted, or does not come.
type turn struct {
	number     int
	onset, end time.Duration // of the speech, in the air
	ids        map[string]bool
	interrupts *heard // the reply in the air when this speech began
	detectedAt time.Duration
	flushedAt  time.Duration
	staleAt    time.Duration // the last frame of the interrupted reply after its detection
	stale      int
	flushes    int
	stoppedAt  time.Duration
	finalAt    time.Duration
	stoppedIn  bool // it was taken to have ended while it went on
	early      *heard
	answer     *heard
	failure    string // code of the last error that was told
}

func (t *turn) covers(id string) bool { return t.ids[id] }

// latencies are those of the caller's own clock, known once the reply is audible.
func (t *turn) latencies() []sample {
	var found []sample
	add := func(name string, from, to time.Duration) {
		if from > 0 && to >= from {
			found = append(found, sample{t.number, name, inMs(to - from), true, ""})
		}
	}
	add("speech_end_to_stopped", t.end, t.stoppedAt)
	add("speech_end_to_final", t.end, t.finalAt)
	if t.answer != nil {
		add("stop_to_first_audio", t.stoppedAt, t.answer.firstAt)
		add("voice_to_voice", t.end, t.answer.firstAt)
	}
	return found
}

// endings say whether the turn was taken to have ended while the person still spoke.
func (t *turn) endings() []sample {
	return []sample{
		{t.number, "early_stop", count(t.stoppedIn), true, ""},
		{t.number, "early_end", count(t.early != nil), true, ""},
	}
}

// interruption says how soon the reply that this speech interrupted fell silent.
func (t *turn) interruption() []sample {
	var found []sample
	if t.flushes > 0 || t.stale > 0 {
		why := ""
		if t.stale > 0 {
			why = "stale_frames"
		}
		found = append(found, sample{t.number, "stale_frames", float64(t.stale), t.stale == 0, why})
	}
	reply := t.interrupts
	if reply == nil {
		return found
	}
	if !reply.flushed {
		if reply.done && reply.doneAt < t.onset+endedBefore {
			return found // it was over before anybody could have interrupted it
		}
		silent := reply.lastAt
		return append(found, sample{t.number, "barge_in", inMs(silent - t.onset), false, "not_interrupted"})
	}
	silent := max(reply.flushedAt, reply.lastAt)
	if silent < t.onset { // something before the speech did it: a breath, the noise of the recording
		return append(found, sample{t.number, "early_silence", inMs(t.onset - silent), true, ""})
	}
	found = append(found, sample{t.number, "barge_in", inMs(silent - t.onset), true, ""})
	after := time.Duration(0)
	if t.staleAt > 0 {
		after = t.staleAt - t.detectedAt
	}
	return append(found, sample{t.number, "detect_to_stale", inMs(after), true, ""})
}

// why names the reason of a turn that got no answer in time.
func (t *turn) why() string {
	switch {
	case t.answer != nil && t.answer.done:
		return "reply_failed"
	case t.answer != nil:
		return "timeout"
	case t.failure != "":
		return "error:" + t.failure
	case t.finalAt == 0:
		return "no_final"
	default:
		return "no_reply"
	}
}

func count(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
