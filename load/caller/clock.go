package main

import "time"

// All times are durations since the start of the process, by the monotonic clock.
var (
	epoch     = time.Now()
	epochUnix = float64(epoch.UnixNano()) / 1e9
)

func now() time.Duration { return time.Since(epoch) }

func unixSeconds(at time.Duration) float64 { return epochUnix + at.Seconds() }
