package main

import (
	"testing"
	"time"

	"parley/load/caller/voicepb"
)

const (
	milli = time.Millisecond
	onset = 100 * milli // of the only clip
	end   = 700 * milli
)

// stage is a person with one clip (speech from 100 to 700 ms of 760), who thinks for 200 ms, and a server
// that the test plays. Time is counted from `ready`; `samples` are those emitted, by name.
type stage struct {
	t       *testing.T
	person  *person
	at      time.Duration
	samples map[string][]sample
	hungUp  bool
}

const zero = 10 * time.Second // when the session is ready

func newStage(t *testing.T, change func(*plan)) *stage {
	p := plan{
		ThinkMs: [2]float64{200, 200}, InterruptMs: [2]float64{500, 500}, Read: readNormal,
		ReplyTimeoutMs: 5000, HangUp: clean, Seed: 1,
	}
	if change != nil {
		change(&p)
	}
	s := &stage{t: t, at: zero, samples: map[string][]sample{}}
	pcm := make([]byte, 38*frameBytes)
	lib := &library{clips: []clip{{framesOf(pcm), onset, end}}, room: roomNoise()}
	s.person = newPerson(&p, lib, func(_ time.Duration, got sample) {
		s.samples[got.name] = append(s.samples[got.name], got)
	})
	s.person.hangUp = func() { s.hungUp = true }
	s.person.ready(zero)
	return s
}

// until lets the microphone run; its frame n holds the sound of 20·n to 20·(n+1) ms.
func (s *stage) until(ms int) *stage {
	for to := zero + time.Duration(ms)*milli; s.at < to; s.at += frameTime {
		s.person.tick(s.at + frameTime)
	}
	return s
}

func at(ms float64) time.Duration { return zero + time.Duration(ms*1e6) }

func (s *stage) hear(ms float64, message *voicepb.ServerMessage) {
	s.person.heardEvent(at(ms), message)
}

func (s *stage) started(ms float64, turn string) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_SpeechStarted{
		SpeechStarted: &voicepb.SpeechStarted{TurnId: turn}}})
}

func (s *stage) stopped(ms float64, turn string) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_SpeechStopped{
		SpeechStopped: &voicepb.SpeechStopped{TurnId: turn}}})
}

func (s *stage) final(ms float64, turn string) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_Transcript{
		Transcript: &voicepb.Transcript{TurnId: turn, Text: "so it is", Final: true}}})
}

func (s *stage) reply(ms float64, reply, turn string, generation int64, frames int) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_ReplyStarted{
		ReplyStarted: &voicepb.ReplyStarted{ReplyId: reply, TurnId: turn, Generation: generation}}})
	s.frames(ms, reply, generation, 0, frames)
}

func (s *stage) frames(ms float64, reply string, generation int64, first, count int) {
	for k := range count {
		s.person.heardAudio(at(ms)+time.Duration(k)*frameTime, reply, generation, int64(first+k))
	}
}

func (s *stage) flushed(ms float64, reply string, generation int64) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_Flushed{
		Flushed: &voicepb.Flushed{Generation: generation, ReplyId: reply}}})
}

func (s *stage) done(ms float64, reply string, outcome voicepb.Outcome, timings map[string]float64) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_ReplyDone{
		ReplyDone: &voicepb.ReplyDone{ReplyId: reply, Outcome: outcome, HeardMs: 1000, TimingsMs: timings}}})
}

func (s *stage) failed(ms float64, code string) {
	s.hear(ms, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_Error{Error: &voicepb.Notice{Code: code}}})
}

// only checks the only sample of a name.
func (s *stage) only(turn int, name string, ms float64, why string) {
	s.t.Helper()
	got := s.samples[name]
	if len(got) != 1 || got[0] != (sample{turn, name, ms, why == "", why}) {
		s.t.Errorf("%s: got %v, not %v %q in turn %d", name, got, ms, why, turn)
	}
}

func (s *stage) is(name string, ms float64, why string)  { s.t.Helper(); s.only(1, name, ms, why) }
func (s *stage) is2(name string, ms float64, why string) { s.t.Helper(); s.only(2, name, ms, why) }

func (s *stage) none(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if len(s.samples[name]) > 0 {
			s.t.Errorf("there is %v", s.samples[name])
		}
	}
}

// asked plays the person's first turn: the clip sounds from 200 ms on, its speech from 300 to 900 ms.
func asked(t *testing.T, change func(*plan)) *stage {
	s := newStage(t, change).until(1140)
	s.started(400, "t1")
	return s
}

func answered(t *testing.T, change func(*plan)) *stage {
	s := asked(t, change)
	s.stopped(1130, "t1")
	s.final(1160, "t1")
	s.until(1400)
	s.reply(1400, "r1", "t1", 1, 20)
	return s
}

func TestATurnThatIsAnswered(t *testing.T) {
	s := answered(t, func(p *plan) { p.Turns = 1 })
	s.done(1800, "r1", voicepb.Outcome_COMPLETED, map[string]float64{"final_to_first_token": 126, "secret": 1})
	s.is("speech_end_to_stopped", 230, "")
	s.is("speech_end_to_final", 260, "")
	s.is("stop_to_first_audio", 270, "")
	s.is("voice_to_voice", 500, "")
	s.is("final_to_first_token", 126, "")
	s.is("turn", 1500, "")
	s.is("frames", 20, "")
	s.is("frames_late", 0, "")
	s.is("frame_jitter", 0, "")
	s.is("early_end", 0, "")
	s.none("barge_in", "stale_frames", "secret")
	if !s.hungUp {
		t.Error("the only turn is over, and nobody hung up")
	}
}

func TestFailedTurnsSayWhy(t *testing.T) {
	for why, play := range map[string]func(*stage){
		"no_final":         func(s *stage) {},
		"no_reply":         func(s *stage) { s.final(1160, "t1") },
		"error:asr_failed": func(s *stage) { s.failed(3000, "asr_failed") },
		"error:llm_failed": func(s *stage) {
			s.final(1160, "t1")
			s.failed(1300, "llm_failed")
			s.hear(1300, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_ReplyStarted{
				ReplyStarted: &voicepb.ReplyStarted{ReplyId: "r1", TurnId: "t1"}}})
			s.done(1300, "r1", voicepb.Outcome_FAILED, nil)
		},
		"reply_failed": func(s *stage) {
			s.final(1160, "t1")
			s.reply(1400, "r1", "t1", 1, 5)
			s.done(1600, "r1", voicepb.Outcome_FAILED, nil)
		},
		"reply_cut": func(s *stage) {
			s.reply(1400, "r1", "t1", 1, 5)
			s.done(1600, "r1", voicepb.Outcome_INTERRUPTED, nil)
		},
		"timeout":      func(s *stage) { s.reply(1400, "r1", "t1", 1, 5) },
		"disconnected": func(s *stage) { s.person.over(at(2000), "disconnected") },
	} {
		s := asked(t, nil)
		play(s)
		s.until(6700)
		if got := s.samples["turn"]; len(got) != 1 || got[0].ok || got[0].why != why {
			t.Errorf("%s: got %v", why, got)
		}
		unanswered := len(s.samples["voice_to_voice"]) == 1 && s.samples["voice_to_voice"][0].why == why
		heard := why == "reply_failed" || why == "reply_cut" || why == "timeout"
		if unanswered == heard {
			t.Errorf("%s: a turn without an answer must count among the waits: %v", why, s.samples["voice_to_voice"])
		}
	}
}

func TestAWordOfAnEarlierTurnIsNoAnswer(t *testing.T) {
	s := asked(t, nil)
	s.reply(1000, "r0", "t0", 1, 3)
	s.reply(1100, "say", "", 2, 3)
	s.final(1160, "t1")
	s.until(1400)
	s.reply(1400, "r1", "t1", 3, 10)
	s.done(1600, "r1", voicepb.Outcome_COMPLETED, nil)
	s.is("voice_to_voice", 500, "")
}

func TestATurnThatIsTakenToEndTooEarly(t *testing.T) {
	s := newStage(t, nil).until(800)
	s.started(400, "t1")
	s.stopped(600, "t1")
	s.final(620, "t1")
	s.reply(700, "r1", "t1", 1, 5)
	s.flushed(800, "r1", 1)
	s.done(800, "r1", voicepb.Outcome_INTERRUPTED, nil)
	s.until(1140)
	s.started(800, "t2")
	s.stopped(1130, "t2")
	s.final(1160, "t2")
	s.reply(1400, "r2", "t2", 2, 10)
	s.done(1600, "r2", voicepb.Outcome_COMPLETED, nil)
	s.is("early_stop", 1, "")
	s.is("early_end", 1, "")
	s.is("voice_to_voice", 500, "")
	s.is("turn", 1300, "")
}

func TestAReplyThatCameTooEarlyAndWasHeardOut(t *testing.T) {
	s := newStage(t, nil).until(1140)
	s.started(400, "t1")
	s.stopped(700, "t1")
	s.final(720, "t1")
	s.reply(850, "r1", "t1", 1, 20)
	s.done(1250, "r1", voicepb.Outcome_COMPLETED, nil)
	s.is("early_end", 1, "")
	s.is("turn", 950, "")
	s.none("voice_to_voice")
}

func TestNobodyTalksIntoAReplyButToInterrupt(t *testing.T) {
	s := answered(t, nil)
	s.until(3000)
	if s.person.turns != 1 {
		t.Fatal("spoke into the reply")
	}
	s.done(3000, "r1", voicepb.Outcome_COMPLETED, nil)
	s.until(3180)
	if s.person.turns != 1 {
		t.Fatal("spoke before having thought")
	}
	s.until(3240)
	if s.person.turns != 2 {
		t.Fatal("did not go on")
	}
}

func TestShareOfReplies(t *testing.T) {
	s := answered(t, func(p *plan) { p.ReplyShare = 0.4 })
	s.done(1800, "r1", voicepb.Outcome_COMPLETED, nil) // 1 s of reply: the next is due 2.5 s after `ready`
	if pause := s.person.speakAt - at(1800); pause != 200*milli {
		t.Fatalf("pauses for %v", pause) // 700 ms of speech come first
	}
	s = answered(t, func(p *plan) { p.ReplyShare = 0.2 })
	s.done(1800, "r1", voicepb.Outcome_COMPLETED, nil)
	if pause := s.person.speakAt - at(1800); pause != 2500*milli {
		t.Fatalf("pauses for %v", pause)
	}
}

func TestNoticesAreToldWhereTheyAreAskedFor(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		s := newStage(t, func(p *plan) { p.Notices = wanted })
		s.until(400)
		notice := &voicepb.Notice{Code: "asr_retry"}
		s.hear(400, &voicepb.ServerMessage{Message: &voicepb.ServerMessage_Warning{Warning: notice}})
		if got := s.samples["warning"]; (len(got) == 1 && got[0].why == "asr_retry") != wanted || len(got) > 1 {
			t.Errorf("notices %v: %v", wanted, got)
		}
	}
}
