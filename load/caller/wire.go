package main

import (
	"errors"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"parley/load/caller/voicepb"
)

// Numbers of voice.proto that the light parser knows.
const (
	replyAudioField      = 8 // ServerMessage.reply_audio
	replyIDField         = 1
	replyGenerationField = 2
	replySequenceField   = 3
)

var errWire = errors.New("the server's message is no protobuf")

// incoming is a server's message: reply audio by its head alone, anything else as a whole.
type incoming struct {
	audio      bool
	replyID    []byte // valid until the next message is read
	generation int64
	sequence   int64
	other      *voicepb.ServerMessage
	scratch    []byte
}

// codec passes messages that were marshalled before, and reads of the audio only what is measured.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(message.([]byte))}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, into any) error {
	in := into.(*incoming)
	size := data.Len()
	if cap(in.scratch) < size {
		in.scratch = make([]byte, 2*size)
	}
	raw := in.scratch[:size]
	data.CopyTo(raw)
	return in.parse(raw)
}

func (in *incoming) parse(raw []byte) error {
	in.audio, in.other = false, nil
	number, kind, size := protowire.ConsumeTag(raw)
	if size > 0 && number == replyAudioField && kind == protowire.BytesType {
		body, n := protowire.ConsumeBytes(raw[size:])
		if n < 0 || size+n != len(raw) {
			return errWire
		}
		in.audio = true
		return in.parseAudio(body)
	}
	in.other = &voicepb.ServerMessage{}
	return proto.Unmarshal(raw, in.other)
}

func (in *incoming) parseAudio(body []byte) error {
	in.replyID, in.generation, in.sequence = nil, 0, 0
	for len(body) > 0 {
		number, kind, size := protowire.ConsumeTag(body)
		if size < 0 {
			return errWire
		}
		body = body[size:]
		switch {
		case kind == protowire.VarintType:
			value, n := protowire.ConsumeVarint(body)
			if n < 0 {
				return errWire
			}
			body = body[n:]
			switch number {
			case replyGenerationField:
				in.generation = int64(value)
			case replySequenceField:
				in.sequence = int64(value)
			}
		case kind == protowire.BytesType && number == replyIDField:
			value, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return errWire
			}
			in.replyID, body = value, body[n:]
		default:
			n := protowire.ConsumeFieldValue(number, kind, body)
			if n < 0 {
				return errWire
			}
			body = body[n:]
		}
	}
	return nil
}
