package main

import (
	"math"
	"slices"
	"sync"
	"time"
)

// lateFor is how many times `take` still counts a frame: seconds, as it is called.
const lateFor = 10

// sendLateness gathers how long after their due time frames reached the socket.
type sendLateness struct {
	mu     sync.Mutex
	values []time.Duration
	before [][]time.Duration // of the last calls of take
}

func (s *sendLateness) add(late time.Duration) {
	s.mu.Lock()
	s.values = append(s.values, late)
	s.mu.Unlock()
}

// take gives the p99 of the last ten seconds (of one second alone it would be its one worst frame where
// few call), and of what came since the last time the greatest and the count.
func (s *sendLateness) take() (p99, greatest time.Duration, count int) {
	s.mu.Lock()
	values := s.values
	s.values = make([]time.Duration, 0, len(values))
	s.mu.Unlock()
	if len(values) > 0 {
		greatest = slices.Max(values)
	}
	s.before = append(s.before, values)
	if len(s.before) > lateFor {
		s.before = s.before[1:]
	}
	all := slices.Concat(s.before...)
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return quantile(all, 0.99), greatest, len(values)
}

// quantile is the smallest value that at least a share q of the sorted values does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}
