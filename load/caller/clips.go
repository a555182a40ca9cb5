package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	frameTime  = 20 * time.Millisecond
	inputRate  = 16000
	frameBytes = inputRate / 50 * 2
	audioField = 2 // ClientMessage.audio
	roomFrames = 251
	roomLevel  = 32 // peak of the room's noise: about -65 dBFS
)

// clip is an utterance as the messages that carry it; all callers share them.
type clip struct {
	frames     [][]byte
	onset, end time.Duration // of the speech, from the start of the clip
}

type library struct {
	clips []clip
	room  [][]byte
}

type manifestEntry struct {
	File       string  `json:"file"`
	OnsetMs    float64 `json:"onset_ms"`
	EndMs      float64 `json:"end_ms"`
	DurationMs float64 `json:"duration_ms"`
}

type libraries struct {
	mu    sync.Mutex
	known map[string]*library
}

func (l *libraries) get(manifest string) (*library, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found, ok := l.known[manifest]; ok {
		return found, nil
	}
	loaded, err := loadLibrary(manifest)
	if err == nil {
		l.known[manifest] = loaded
	}
	return loaded, err
}

func loadLibrary(manifest string) (*library, error) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return nil, fmt.Errorf("the clips cannot be read: %w", err)
	}
	var entries []manifestEntry
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%s is no manifest of clips: %w", manifest, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s names no clip", manifest)
	}
	lib := &library{room: roomNoise()}
	for _, entry := range entries {
		path := entry.File
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(manifest), path)
		}
		pcm, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("a clip cannot be read: %w", err)
		}
		if entry.OnsetMs < 0 || entry.EndMs <= entry.OnsetMs || int(entry.EndMs) > len(pcm)*1000/(2*inputRate) {
			return nil, fmt.Errorf("%s: speech from %g to %g ms does not lie within it", entry.File, entry.OnsetMs, entry.EndMs)
		}
		lib.clips = append(lib.clips, clip{framesOf(pcm), ms(entry.OnsetMs), ms(entry.EndMs)})
	}
	return lib, nil
}

func framesOf(pcm []byte) [][]byte {
	var frames [][]byte
	for at := 0; at < len(pcm); at += frameBytes {
		frame := make([]byte, frameBytes)
		copy(frame, pcm[at:])
		frames = append(frames, audioMessage(frame))
	}
	return frames
}

func audioMessage(pcm []byte) []byte {
	message := protowire.AppendTag(nil, audioField, protowire.BytesType)
	return protowire.AppendBytes(message, pcm)
}

func roomNoise() [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	frames := make([][]byte, roomFrames)
	for i := range frames {
		pcm := make([]byte, frameBytes)
		for at := 0; at < frameBytes; at += 2 {
			value := uint16(int16(random.IntN(2*roomLevel+1) - roomLevel))
			pcm[at], pcm[at+1] = byte(value), byte(value>>8)
		}
		frames[i] = audioMessage(pcm)
	}
	return frames
}
