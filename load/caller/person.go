package main

import (
	"math/rand/v2"
	"time"
)

const (
	// A reply that ended this soon after the onset was not there to be interrupted.
	endedBefore = time.Second
	// The shortest pause between two turns, whatever share of replies is asked for.
	shortestPause = 200 * time.Millisecond
)

// person speaks, listens and measures. No clock and no wire of their own: `tick` says that 20 ms of sound
// are over, the other methods that something arrived. Times are those of the process.
type person struct {
	plan   *plan
	clips  []clip
	room   [][]byte
	random *rand.Rand
	deck   []int // clips that are still to be said before any is said again
	emit   func(at time.Duration, s sample)
	rows   func(reply int, a arrival, late time.Duration)
	hangUp func() // all turns are done

	frame     int
	clip      *clip
	position  int
	air       time.Duration // when the clip began to sound
	speakAt   time.Duration // when the next one shall; 0: not known yet
	turn      *turn         // open, or nil
	turns     int
	replies   []*heard // the last few
	known     int
	flushed   int64 // newest generation given up; −1: none
	readyAt   time.Duration
	spokenFor time.Duration // reply audio heard to the end
}

func newPerson(p *plan, lib *library, emit func(time.Duration, sample)) *person {
	return &person{
		plan: p, clips: lib.clips, room: lib.room, emit: emit, flushed: -1,
		random: rand.New(rand.NewPCG(p.Seed, 0x5eed)),
		rows:   func(int, arrival, time.Duration) {}, hangUp: func() {},
	}
}

func (p *person) ready(at time.Duration) {
	p.readyAt = at
	p.frame = p.random.IntN(len(p.room))
	p.speakAt = at + p.between(p.plan.ThinkMs)
}

func (p *person) between(pair [2]float64) time.Duration {
	return ms(pair[0] + p.random.Float64()*(pair[1]-pair[0]))
}

// tick returns the message with the 20 ms of sound that end at `due`.
func (p *person) tick(due time.Duration) []byte {
	air := due - frameTime
	if p.clip == nil && p.speakAt > 0 && air >= p.speakAt && p.maySpeak(air) {
		p.speak(air)
	}
	p.checkTimeout(air)
	if p.clip == nil {
		p.frame++
		return p.room[p.frame%len(p.room)]
	}
	message := p.clip.frames[p.position]
	if p.position++; p.position == len(p.clip.frames) {
		p.clip = nil
	}
	return message
}

// maySpeak: nobody speaks into a reply but to interrupt it; one that nothing more comes of is over.
func (p *person) maySpeak(air time.Duration) bool {
	if p.turn != nil {
		return p.turn.answer != nil // an interruption
	}
	last := p.lastReply()
	return last == nil || last.done || air-last.lastAt > ms(p.plan.ReplyTimeoutMs)
}

func (p *person) speak(air time.Duration) {
	var interrupts *heard
	if p.turn != nil {
		interrupts = p.turn.answer
		p.closeTurn(air, "")
	}
	p.clip = p.nextClip()
	p.position, p.air, p.speakAt = 0, air, 0
	p.turns++
	p.turn = &turn{
		number: p.turns, onset: air + p.clip.onset, end: air + p.clip.end,
		ids: map[string]bool{}, interrupts: interrupts,
	}
}

func (p *person) checkTimeout(air time.Duration) {
	t := p.turn
	if t == nil || p.clip != nil {
		return
	}
	since := t.end
	if t.answer != nil {
		since = t.answer.lastAt
	}
	if air-since > ms(p.plan.ReplyTimeoutMs) {
		if t.answer == nil && t.early != nil && t.early.done {
			p.closeTurn(air, "") // it was answered, if too soon
		} else {
			p.closeTurn(air, t.why())
		}
	}
}

// closeTurn ends the turn that is open; why is empty when it was answered.
func (p *person) closeTurn(at time.Duration, why string) {
	t := p.turn
	p.turn = nil
	for _, s := range t.endings() {
		p.emit(at, s)
	}
	for _, s := range t.latencies() {
		p.emit(at, s)
	}
	for _, s := range t.interruption() {
		p.emit(at, s)
	}
	if why != "" && t.answer == nil {
		p.emit(at, sample{t.number, "voice_to_voice", inMs(at - t.end), false, why})
	}
	p.emit(at, sample{t.number, "turn", inMs(at - t.onset), why == "", why})
	if p.plan.Turns > 0 && p.turns >= p.plan.Turns {
		p.speakAt = 0
		p.hangUp()
		return
	}
	p.speakAt = at + p.pause(at)
}

// pause before the next turn: as the plan says, longer where replies shall take but a share of the time.
func (p *person) pause(at time.Duration) time.Duration {
	think := p.between(p.plan.ThinkMs)
	if p.plan.ReplyShare > 0 {
		due := p.readyAt + time.Duration(float64(p.spokenFor)/p.plan.ReplyShare)
		think = max(shortestPause, due-at-p.speechTime())
	}
	return think
}

// speechTime is what the next turn will take without its reply, as far as that is known.
func (p *person) speechTime() time.Duration {
	var sum time.Duration
	for i := range p.clips {
		sum += p.clips[i].end
	}
	return sum / time.Duration(len(p.clips))
}

func (p *person) lastReply() *heard {
	if len(p.replies) == 0 {
		return nil
	}
	return p.replies[len(p.replies)-1]
}

// over is called when the stream ended before the person hung up.
func (p *person) over(at time.Duration, why string) {
	if p.turn != nil {
		p.closeTurn(at, why)
	}
	p.speakAt = 0
}

// nextClip goes through all of them in random order, again and again: a short run has said each about as
// often as the others.
func (p *person) nextClip() *clip {
	if len(p.deck) == 0 {
		p.deck = p.random.Perm(len(p.clips))
	}
	next := p.deck[0]
	p.deck = p.deck[1:]
	return &p.clips[next]
}
