package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"parley/load/caller/voicepb"
)

const (
	// Frames that wait for a server which does not read, 2 s; then they are lost, and counted.
	outboxFrames = 100
	farewell     = 5 * time.Second
	sendLateFrom = 5 * time.Millisecond
)

type outgoing struct {
	due     time.Duration // 0: no audio
	message []byte        // nil: the last word was said
}

// caller is one connection and its person.
type caller struct {
	id    int64
	plan  *plan
	fleet *fleet
	out   chan outgoing
	done  chan struct{}

	mu       sync.Mutex
	link     *link
	person   *person
	leaving  bool // hung up, or told to
	closed   *voicepb.Closed
	lateMost time.Duration
	lateTold time.Duration
}

func newCaller(id int64, p *plan, f *fleet) *caller {
	return &caller{id: id, plan: p, fleet: f, out: make(chan outgoing, outboxFrames), done: make(chan struct{})}
}

// run is the caller's whole life.
func (c *caller) run() {
	began := now()
	lib, err := c.fleet.libraries.get(c.plan.Clips)
	if err != nil {
		c.fleet.over(c, "no_clips: "+err.Error(), false)
		return
	}
	link, err := dial(c.plan, c.sent)
	if err != nil {
		c.refused(began, err)
		return
	}
	defer link.close()
	c.mu.Lock()
	c.link = link
	c.person = newPerson(c.plan, lib, func(at time.Duration, s sample) { c.tell(at, s) })
	c.person.hangUp = c.leave
	if c.plan.FramesCSV != "" && c.plan.Read == readNormal {
		c.person.rows = c.fleet.frames.writer(c.plan.FramesCSV, c.id)
	}
	leaving := c.leaving
	c.mu.Unlock()
	if leaving {
		c.fleet.over(c, "", true)
		return
	}
	go c.send(link)
	in, err := c.shakeHands(link)
	if err != nil {
		close(c.done)
		c.refused(began, err)
		return
	}
	connected := now()
	c.tell(connected, sample{0, "connect", inMs(connected - began), true, ""})
	c.mu.Lock()
	c.person.ready(connected)
	life := c.person.between(c.plan.LifeMs)
	c.mu.Unlock()
	if life > 0 {
		defer time.AfterFunc(life, c.stop).Stop()
	}
	c.fleet.pacer.join(c)
	err = c.listen(link, in)
	c.fleet.pacer.leave(c)
	close(c.done)
	c.end(connected, err)
}

func (c *caller) shakeHands(link *link) (*incoming, error) {
	guard := time.AfterFunc(ms(c.plan.ConnectMs), link.cancel)
	start, err := proto.Marshal(c.plan.start())
	if err != nil {
		return nil, err
	}
	c.out <- outgoing{message: start}
	in := &incoming{}
	err = link.stream.RecvMsg(in)
	if !guard.Stop() {
		return nil, context.DeadlineExceeded
	}
	if err != nil {
		return nil, err
	}
	if in.other.GetReady() == nil {
		return nil, status.Error(codes.Internal, "the first message was not `ready`")
	}
	return in, nil
}

func (p *plan) start() *voicepb.ClientMessage {
	format := func(rate int32) *voicepb.AudioFormat {
		return &voicepb.AudioFormat{Encoding: voicepb.Encoding_PCM16, SampleRate: rate}
	}
	return &voicepb.ClientMessage{Message: &voicepb.ClientMessage_Start{Start: &voicepb.Start{
		Input: format(inputRate), Output: format(p.OutputRate), LeadMs: p.LeadMs,
		Settings: &voicepb.Settings{Turn: &voicepb.TurnSettings{
			HangoverMs: p.HangoverMs, HangoverLongMs: p.HangoverLongMs, Eager: p.Eager,
		}},
	}}}
}

// tick is called by the pacer every 20 ms.
func (c *caller) tick(due time.Duration) {
	c.mu.Lock()
	if c.leaving {
		c.mu.Unlock()
		return
	}
	message := c.person.tick(due)
	leaving := c.leaving
	c.mu.Unlock()
	if leaving {
		return
	}
	select {
	case c.out <- outgoing{due, message}:
	default:
		c.fleet.heldBack.Add(1)
	}
}

func (c *caller) send(link *link) {
	for {
		select {
		case <-c.done:
			return
		case next := <-c.out:
			if next.message == nil {
				link.stream.CloseSend()
				return
			}
			if next.due > 0 {
				link.socket.expect(next.due, now())
			}
			if link.stream.SendMsg(next.message) != nil {
				return // the receiving side learns why
			}
		}
	}
}

// sent notes how late a frame reached the socket; a caller that falls behind says so once a second.
func (c *caller) sent(late time.Duration, heldBack bool) {
	if heldBack {
		c.fleet.heldBack.Add(1)
	}
	c.fleet.sendLate.add(late)
	if late <= sendLateFrom {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lateMost = max(c.lateMost, late)
	if at := now(); at-c.lateTold >= time.Second {
		c.fleet.events.sample(c.id, at, sample{0, "send_late", inMs(c.lateMost), false, "load_generator"})
		c.lateTold, c.lateMost = at, 0
	}
}

// listen reads until the stream ends.
func (c *caller) listen(link *link, in *incoming) error {
	reader := newReader(c.plan, c.done)
	for {
		if err := link.stream.RecvMsg(in); err != nil {
			return err
		}
		at := now()
		c.mu.Lock()
		switch {
		case !in.audio && in.other.GetClosed() != nil:
			c.closed = in.other.GetClosed()
		case c.leaving:
			// The answer to our goodbye: a reply that it cut is nobody's failure.
		case in.audio:
			c.person.heardAudio(at, string(in.replyID), in.generation, in.sequence)
		default:
			c.person.heardEvent(at, in.other)
		}
		c.mu.Unlock()
		reader.after(in.audio)
	}
}

// stop hangs up, cutting the turn that is open.
func (c *caller) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
}

// leave hangs up; c.mu is held.
func (c *caller) leave() {
	if c.leaving {
		return
	}
	c.leaving = true
	if c.link == nil {
		return
	}
	if c.plan.HangUp == rude {
		c.link.reset()
		return
	}
	bye, _ := proto.Marshal(&voicepb.ClientMessage{ // a constant message always marshals
		Message: &voicepb.ClientMessage_HangUp{HangUp: &voicepb.HangUp{Reason: "the caller is done"}},
	})
	for _, last := range []outgoing{{message: bye}, {}} {
		select {
		case c.out <- last:
		default: // the server takes nothing: the farewell's deadline ends it
		}
	}
	time.AfterFunc(farewell, c.link.cancel)
}

// tell emits a sample; a reader that is slow by plan measures itself, not the gateway.
func (c *caller) tell(at time.Duration, s sample) {
	if c.plan.Read != readNormal {
		switch s.name {
		case "turn":
			s.name = "slow_turn"
		case "connect", "session", "stale_frames":
		default:
			return
		}
	}
	c.fleet.events.sample(c.id, at, s)
}

func seedOf(id int64, seed uint64) uint64 {
	return rand.New(rand.NewPCG(seed, uint64(id))).Uint64()
}
