package main

import (
	"time"

	"parley/load/caller/voicepb"
)

const keptReplies = 4

// heardAudio takes a frame of a reply.
func (p *person) heardAudio(at time.Duration, id string, generation, sequence int64) {
	reply := p.reply(id)
	t := p.turn
	if t != nil && t.interrupts == reply && t.detectedAt > 0 {
		t.staleAt = at
	}
	if generation <= p.flushed {
		if t != nil {
			t.stale++
		} else {
			p.emit(at, sample{p.turns, "stale_frames", 1, false, "stale_frames"})
		}
		reply.lastAt = at
		return
	}
	reply.frame(at, generation, sequence, func(a arrival, late time.Duration) { p.rows(reply.number, a, late) })
	if reply.frames == 1 && t != nil && t.answer == nil && t.interrupts != reply && t.covers(reply.turnID) {
		p.answered(at, t, reply)
	}
}

func (p *person) answered(at time.Duration, t *turn, reply *heard) {
	reply.turn = t.number
	if at < t.end {
		t.early, reply.early = reply, true
		return
	}
	t.answer = reply
	if p.random.Float64() < p.plan.Interrupt {
		p.speakAt = at + p.between(p.plan.InterruptMs)
	}
}

// heardEvent takes anything but audio.
func (p *person) heardEvent(at time.Duration, message *voicepb.ServerMessage) {
	switch m := message.Message.(type) {
	case *voicepb.ServerMessage_SpeechStarted:
		if t := p.turn; t != nil && at >= t.onset {
			t.ids[m.SpeechStarted.TurnId] = true
			t.detected(at)
		}
	case *voicepb.ServerMessage_SpeechStopped:
		if t := p.turn; t != nil && at >= t.onset && t.answer == nil {
			t.ids[m.SpeechStopped.TurnId] = true
			t.stoppedAt = at
			t.stoppedIn = t.stoppedIn || at < t.end
		}
	case *voicepb.ServerMessage_Transcript:
		if t := p.turn; t != nil && at >= t.onset && t.answer == nil {
			t.ids[m.Transcript.TurnId] = true
			if m.Transcript.Final && m.Transcript.Text != "" {
				t.finalAt = at
			}
		}
	case *voicepb.ServerMessage_ReplyStarted:
		p.reply(m.ReplyStarted.ReplyId).turnID = m.ReplyStarted.TurnId
	case *voicepb.ServerMessage_Flushed:
		p.heardFlushed(at, m.Flushed)
	case *voicepb.ServerMessage_ReplyDone:
		p.heardDone(at, m.ReplyDone)
	case *voicepb.ServerMessage_Warning:
		p.noticed(at, "warning", m.Warning)
	case *voicepb.ServerMessage_Error:
		p.noticed(at, "error", m.Error)
		if p.turn != nil {
			p.turn.failure = m.Error.Code
		}
	}
}

func (p *person) noticed(at time.Duration, name string, m *voicepb.Notice) {
	if p.plan.Notices {
		p.emit(at, sample{p.turns, name, 1, true, m.Code})
	}
}

func (t *turn) detected(at time.Duration) {
	if t.interrupts != nil && t.detectedAt == 0 {
		t.detectedAt = at
	}
}

func (p *person) heardFlushed(at time.Duration, m *voicepb.Flushed) {
	p.flushed = max(p.flushed, m.Generation)
	if m.ReplyId != "" {
		reply := p.reply(m.ReplyId)
		reply.flushed, reply.flushedAt = true, at
	}
	if t := p.turn; t != nil {
		t.flushes++
		t.detected(at)
	}
}

func (p *person) heardDone(at time.Duration, m *voicepb.ReplyDone) {
	reply := p.reply(m.ReplyId)
	reply.done, reply.doneAt = true, at
	reply.endGeneration(func(a arrival, late time.Duration) { p.rows(reply.number, a, late) })
	p.spokenFor += ms(float64(m.HeardMs))
	if p.plan.Read == readNormal { // who reads late would measure themselves
		for _, s := range reply.samples() {
			p.emit(at, s)
		}
	}
	for _, name := range gatewayStages {
		if value, ok := m.TimingsMs[name]; ok && reply.turn > 0 && !reply.early {
			p.emit(at, sample{reply.turn, name, value, true, ""})
		}
	}
	t := p.turn
	if t == nil || !t.covers(reply.turnID) {
		return
	}
	switch {
	case reply == t.answer || (reply == t.early && at >= t.end && m.Outcome == voicepb.Outcome_COMPLETED):
		p.closeTurn(at, outcomeWhy(t, m.Outcome))
	case m.Outcome == voicepb.Outcome_FAILED && reply.frames == 0 && at >= t.end:
		p.closeTurn(at, outcomeWhy(t, m.Outcome)) // a reply that failed before its first sound
	}
}

// gatewayStages are the stages that only the gateway can see; it tells them with the reply's end.
var gatewayStages = []string{
	"final_to_first_token", "first_token_to_first_sentence", "sentence_to_first_chunk", "final_to_first_audio",
}

func outcomeWhy(t *turn, outcome voicepb.Outcome) string {
	switch {
	case outcome == voicepb.Outcome_COMPLETED:
		return ""
	case outcome == voicepb.Outcome_FAILED && t.failure != "":
		return "error:" + t.failure
	case outcome == voicepb.Outcome_FAILED:
		return "reply_failed"
	default:
		return "reply_cut" // nobody had interrupted it
	}
}

func (p *person) reply(id string) *heard {
	for i := len(p.replies) - 1; i >= 0; i-- {
		if p.replies[i].id == id {
			return p.replies[i]
		}
	}
	p.known++
	found := &heard{number: p.known, id: id, generation: -1}
	if len(p.replies) == keptReplies {
		p.replies = append(p.replies[:0], p.replies[1:]...)
	}
	p.replies = append(p.replies, found)
	return found
}
