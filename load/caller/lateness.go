package main

import (
	"math"
	"slices"
	"sync"
	"time"
)

// sendLateness gathers how long after their due time frames reached the socket.
type sendLateness struct {
	mu     sync.Mutex
	values []time.Duration
}

func (s *sendLateness) add(late time.Duration) {
	s.mu.Lock()
	s.values = append(s.values, late)
	s.mu.Unlock()
}

// take empties it: p99, greatest and count since the last time.
func (s *sendLateness) take() (p99, greatest time.Duration, count int) {
	s.mu.Lock()
	values := s.values
	s.values = make([]time.Duration, 0, len(values))
	s.mu.Unlock()
	if len(values) == 0 {
		return 0, 0, 0
	}
	slices.Sort(values)
	return quantile(values, 0.99), values[len(values)-1], len(values)
}

// quantile is the smallest value that at least a share q of the sorted values does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}
