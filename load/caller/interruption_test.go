package main

import (
	"testing"

	"parley/load/caller/voicepb"
)

// interrupted is a person whose second clip begins at 1900 ms, into the reply that came at 1400 ms: its
// speech begins at 2000 ms. Frames come until `until`.
func interrupted(t *testing.T, until float64) *stage {
	s := asked(t, func(p *plan) { p.Interrupt = 1 })
	s.stopped(1130, "t1")
	s.final(1160, "t1")
	s.until(1400)
	s.reply(1400, "r1", "t1", 1, int(until-1400)/20+1)
	s.until(2700)
	if s.person.turns != 2 || s.person.turn.onset != at(2000) {
		t.Fatalf("turn %d, onset %v", s.person.turns, s.person.turn.onset)
	}
	return s
}

func (s *stage) answerSecond() {
	s.stopped(2830, "t2")
	s.final(2860, "t2")
	s.until(3100)
	s.reply(3100, "r2", "t2", 9, 10)
	s.done(3300, "r2", voicepb.Outcome_COMPLETED, nil)
}

func TestAnInterruptionIsMeasuredFromTheOnsetInTheAir(t *testing.T) {
	s := interrupted(t, 2100)
	s.flushed(2120, "r1", 1)
	s.started(2121, "t2")
	s.done(2300, "r1", voicepb.Outcome_INTERRUPTED, map[string]float64{"final_to_first_token": 126})
	if frames := s.samples["frames"]; len(frames) != 1 || frames[0].turn != 1 || frames[0].ms != 36 {
		t.Errorf("the reply that was cut belongs to the first turn: %v", frames)
	}
	s.is("final_to_first_token", 126, "")
	s.answerSecond()
	s.is2("barge_in", 120, "")
	s.is2("detect_to_stale", 0, "")
	s.is2("stale_frames", 0, "")
	if turns := s.samples["turn"]; len(turns) != 2 || !turns[0].ok || !turns[1].ok {
		t.Errorf("an interrupted turn was answered, and so was the interruption: %v", turns)
	}
}

func TestAFrameThatOvertakesTheFlushIsStaleAndTheReplyNotYetSilent(t *testing.T) {
	s := interrupted(t, 2100)
	s.flushed(2120, "r1", 1)
	s.started(2121, "t2")
	s.frames(2140, "r1", 1, 36, 2)
	s.done(2300, "r1", voicepb.Outcome_INTERRUPTED, nil)
	s.answerSecond()
	s.is2("stale_frames", 2, "stale_frames")
	s.is2("barge_in", 160, "")
	s.is2("detect_to_stale", 40, "")
}

func TestFramesBetweenDetectionAndFlushAreCountedFromTheDetection(t *testing.T) {
	s := interrupted(t, 2100)
	s.started(2110, "t2")
	s.frames(2120, "r1", 1, 36, 3)
	s.flushed(2170, "r1", 1)
	s.done(2300, "r1", voicepb.Outcome_INTERRUPTED, nil)
	s.answerSecond()
	s.is2("barge_in", 170, "")
	s.is2("detect_to_stale", 50, "")
	s.is2("stale_frames", 0, "")
}

func TestAReplyThatGoesOnAgainWasNotSilent(t *testing.T) {
	s := interrupted(t, 2100)
	s.flushed(2120, "r1", 1)
	s.started(2121, "t2")
	s.frames(2300, "r1", 2, 0, 10)
	s.flushed(2500, "r1", 2)
	s.done(2500, "r1", voicepb.Outcome_INTERRUPTED, nil)
	s.answerSecond()
	s.is2("barge_in", 500, "")
}

func TestAReplyThatNobodyStops(t *testing.T) {
	s := interrupted(t, 3060)
	s.done(3080, "r1", voicepb.Outcome_COMPLETED, nil)
	s.until(8000)
	s.is2("barge_in", 1060, "not_interrupted")
}

func TestAReplyThatEndsByItselfCannotBeInterrupted(t *testing.T) {
	s := interrupted(t, 2040)
	s.done(2060, "r1", voicepb.Outcome_COMPLETED, nil)
	s.started(2121, "t2")
	s.answerSecond()
	s.none("barge_in", "detect_to_stale")
	if turns := s.samples["turn"]; len(turns) != 2 || !turns[1].ok {
		t.Errorf("got %v", turns)
	}
}

func TestASilenceBeforeTheOnsetIsNoAnswerToIt(t *testing.T) {
	s := interrupted(t, 1940)
	s.flushed(1960, "r1", 1)
	s.started(1961, "t2")
	s.done(2300, "r1", voicepb.Outcome_INTERRUPTED, nil)
	s.answerSecond()
	s.is2("early_silence", 40, "")
	s.none("barge_in", "detect_to_stale")
}

func TestNoGenerationAtOrBelowAFlushedOneMayCome(t *testing.T) {
	s := answered(t, nil)
	s.flushed(1900, "r1", 3)
	s.frames(1920, "r1", 2, 0, 1)
	s.frames(1940, "r9", 3, 0, 1)
	s.frames(1960, "r9", 4, 0, 1)
	s.done(2000, "r1", voicepb.Outcome_COMPLETED, nil)
	s.is("stale_frames", 2, "stale_frames")
}
