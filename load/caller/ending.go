package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refused reports a caller that never got as far as `ready`.
func (c *caller) refused(began time.Duration, err error) {
	at := now()
	why := "refused:" + statusName(err)
	c.mu.Lock()
	leaving := c.leaving
	c.mu.Unlock()
	if leaving {
		c.fleet.over(c, "", true)
		return
	}
	c.tell(at, sample{0, "connect", inMs(at - began), false, why})
	c.tell(at, sample{0, "session", inMs(at - began), false, why})
	c.fleet.over(c, why, false)
}

// end reports a session that ran, and why it ended.
func (c *caller) end(connected time.Duration, err error) {
	at := now()
	c.mu.Lock()
	ok, why := true, ""
	if !c.leaving {
		ok, why = c.verdict(err)
		c.person.over(at, "disconnected")
	}
	c.mu.Unlock()
	c.tell(at, sample{0, "session", inMs(at - connected), ok, why})
	c.fleet.over(c, why, ok)
}

// verdict on a stream that the server ended; c.mu is held.
func (c *caller) verdict(err error) (bool, string) {
	if c.plan.Read == readStall && status.Code(err) == codes.ResourceExhausted {
		return true, "slow_client" // given up, as it should be
	}
	if c.closed != nil {
		return false, "closed:" + c.closed.Reason
	}
	if errors.Is(err, io.EOF) {
		return false, "disconnected:EOF"
	}
	return false, "disconnected:" + statusName(err)
}

// statusName is gRPC's own spelling: RESOURCE_EXHAUSTED.
func statusName(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "DEADLINE_EXCEEDED"
	}
	var name strings.Builder
	for i, r := range status.Code(err).String() {
		if i > 0 && unicode.IsUpper(r) && status.Code(err) != codes.OK {
			name.WriteByte('_')
		}
		name.WriteRune(unicode.ToUpper(r))
	}
	return name.String()
}
