package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"parley/load/caller/voicepb"
)

func TestTheLightParserReadsWhatTheRealOneWrites(t *testing.T) {
	raw, err := proto.Marshal(&voicepb.ServerMessage{Message: &voicepb.ServerMessage_ReplyAudio{
		ReplyAudio: &voicepb.ReplyAudio{
			ReplyId: "r1", Generation: 300, Sequence: 7, OffsetMs: 140, Audio: make([]byte, 1920),
		}}})
	if err != nil {
		t.Fatal(err)
	}
	in := &incoming{}
	if err := in.parse(raw); err != nil {
		t.Fatal(err)
	}
	if !in.audio || string(in.replyID) != "r1" || in.generation != 300 || in.sequence != 7 {
		t.Fatalf("got %+v", in)
	}
	for cut := range raw[:len(raw)-1] {
		if err := (&incoming{}).parse(raw[:cut+1]); err == nil {
			t.Fatalf("half a message of %d bytes was taken", cut+1)
		}
	}
}

func TestAnythingButAudioIsReadAsAWhole(t *testing.T) {
	raw, _ := proto.Marshal(&voicepb.ServerMessage{Message: &voicepb.ServerMessage_Flushed{
		Flushed: &voicepb.Flushed{Generation: 4}}})
	in := &incoming{audio: true}
	if err := in.parse(raw); err != nil || in.audio || in.other.GetFlushed().GetGeneration() != 4 {
		t.Fatalf("got %+v, %v", in, err)
	}
}

func TestAMessageOfAClipIsWhatTheRealMarshallerWrites(t *testing.T) {
	pcm := make([]byte, frameBytes)
	pcm[5] = 9
	want, _ := proto.Marshal(&voicepb.ClientMessage{Message: &voicepb.ClientMessage_Audio{Audio: pcm}})
	if string(audioMessage(pcm)) != string(want) {
		t.Fatal("the message differs")
	}
}

func TestManifestsAreChecked(t *testing.T) {
	folder := t.TempDir()
	os.WriteFile(filepath.Join(folder, "a.pcm"), make([]byte, 32000), 0o644)
	manifest := filepath.Join(folder, "clips.json")
	for text, fault := range map[string]string{
		`[{"file":"a.pcm","onset_ms":10,"end_ms":900}]`:   "",
		`[{"file":"a.pcm","onset_ms":10,"end_ms":1001}]`:  "does not lie within",
		`[{"file":"a.pcm","onset_ms":900,"end_ms":10}]`:   "does not lie within",
		`[{"file":"none.pcm","onset_ms":10,"end_ms":90}]`: "cannot be read",
		`[]`: "names no clip",
		`{}`: "no manifest",
	} {
		os.WriteFile(manifest, []byte(text), 0o644)
		lib, err := loadLibrary(manifest)
		if fault == "" && (err != nil || len(lib.clips[0].frames) != 50 || lib.clips[0].end != 900*time.Millisecond) {
			t.Errorf("%s: %v", text, err)
		} else if fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestOrdersAreChecked(t *testing.T) {
	for text, fault := range map[string]string{
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c"}}`: "",
		`{"cmd":"stop","id":1}`:                                                         "",
		`{"cmd":"jump","id":1}`:                                                         "is none",
		`{"cmd":"start","id":1,"plan":{"host":"h","clips":"c"}}`:                        "host:port",
		`{"cmd":"start","id":1,"plan":{"host":"h:1"}}`:                                  "manifest",
		`{"cmd":"start","id":1,"plan":null}`:                                            "needs a plan",
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c","think_ms":[5,1]}}`:     "think_ms",
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c","read":"never"}}`:       "read must be",
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c","hang_up":"politely"}}`: "hang_up must be",
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c","interrupt":2}}`:        "interrupt must",
		`{"cmd":"start","id":1,"plan":{"host":"h:1","clips":"c","volume":11}}`:          "unknown field",
	} {
		_, err := parseOrder([]byte(text))
		if (fault == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), fault)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEventsAreLinesOfJSON(t *testing.T) {
	var out strings.Builder
	events := newEmitter(&out)
	events.sample(3, 0, sample{2, "turn", 1.25, false, `it said "no"`})
	events.ended(3, "", true)
	events.self(self{Callers: 7})
	events.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q", lines)
	}
	for _, line := range lines {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if event["e"] == "sample" && (event["why"] != `it said "no"` || event["ms"] != 1.25 || event["ok"] != false) {
			t.Fatalf("got %v", event)
		}
	}
}
