package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// order is one line of stdin.
type order struct {
	Cmd  string `json:"cmd"`
	ID   int64  `json:"id"`
	Plan *plan  `json:"plan"`
}

// plan says who a caller is and how they behave. Times are milliseconds.
type plan struct {
	Host           string     `json:"host"`
	TLS            bool       `json:"tls"`
	CA             string     `json:"ca"`
	Key            string     `json:"key"`
	Clips          string     `json:"clips"`
	OutputRate     int32      `json:"output_rate"`
	Turns          int        `json:"turns"`
	LifeMs         [2]float64 `json:"life_ms"` // hangs up after so long, whatever is being said; 0: does not
	ThinkMs        [2]float64 `json:"think_ms"`
	Interrupt      float64    `json:"interrupt"`
	InterruptMs    [2]float64 `json:"interrupt_ms"`
	Read           string     `json:"read"`
	StallMs        float64    `json:"stall_ms"`
	HangUp         string     `json:"hang_up"`
	Eager          *bool      `json:"eager"`
	HangoverMs     *int32     `json:"hangover_ms"`
	HangoverLongMs *int32     `json:"hangover_long_ms"`
	LeadMs         *int32     `json:"lead_ms"`
	Seed           uint64     `json:"seed"`
	FramesCSV      string     `json:"frames_csv"`
	ConnectMs      float64    `json:"connect_timeout_ms"`
	ReplyTimeoutMs float64    `json:"reply_timeout_ms"`
	ReplyShare     float64    `json:"reply_share"`
	Notices        bool       `json:"notices"` // every warning and error becomes a sample
}

const (
	readNormal = "normal"
	readSlow   = "slow"
	readStall  = "stall"
	rude       = "rude"
	clean      = "clean"
)

func parseOrder(line []byte) (order, error) {
	o := order{Plan: nil}
	p := plan{
		OutputRate: 48000, ThinkMs: [2]float64{500, 1500}, InterruptMs: [2]float64{500, 2000}, Read: readNormal,
		StallMs: 15000, HangUp: clean, ConnectMs: 10000, ReplyTimeoutMs: 10000,
	}
	o.Plan = &p
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		return o, err
	}
	switch o.Cmd {
	case "quit", "stop":
		return o, nil
	case "start":
	default:
		return o, fmt.Errorf("the command %q is none; send start, stop or quit", o.Cmd)
	}
	if o.Plan == nil {
		return o, fmt.Errorf("start needs a plan")
	}
	return o, o.Plan.check()
}

func (p *plan) check() error {
	if _, _, err := net.SplitHostPort(p.Host); err != nil {
		return fmt.Errorf("host must be host:port, not %q", p.Host)
	}
	if p.Clips == "" {
		return fmt.Errorf("clips must name a manifest")
	}
	for name, pair := range map[string][2]float64{"think_ms": p.ThinkMs, "interrupt_ms": p.InterruptMs, "life_ms": p.LifeMs} {
		if pair[0] < 0 || pair[1] < pair[0] {
			return fmt.Errorf("%s must be [min, max] with 0 <= min <= max", name)
		}
	}
	if p.Interrupt < 0 || p.Interrupt > 1 || p.ReplyShare < 0 || p.ReplyShare >= 1 {
		return fmt.Errorf("interrupt must lie in 0..1 and reply_share in 0..1, below 1")
	}
	if p.Read != readNormal && p.Read != readSlow && p.Read != readStall {
		return fmt.Errorf("read must be normal, slow or stall, not %q", p.Read)
	}
	if p.HangUp != clean && p.HangUp != rude {
		return fmt.Errorf("hang_up must be clean or rude, not %q", p.HangUp)
	}
	if p.ConnectMs <= 0 || p.ReplyTimeoutMs <= 0 {
		return fmt.Errorf("connect_timeout_ms and reply_timeout_ms must be above 0")
	}
	return nil
}

func ms(value float64) time.Duration { return time.Duration(value * float64(time.Millisecond)) }

func inMs(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
