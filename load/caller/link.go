package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const (
	converse = "/parley.v1.Voice/Converse"
	// A fixed window turns the bandwidth probe off, which costs a ping for every few frames.
	wideWindow = 1 << 20
	// The smallest there is: 0.7 s of 48 kHz audio, so that a slow reader is felt by the server soon.
	narrowWindow = 64 << 10
)

// link is one caller's TCP connection with its one stream.
type link struct {
	channel *grpc.ClientConn
	stream  grpc.ClientStream
	socket  *socket
	cancel  context.CancelFunc
}

func dial(p *plan, late func(late time.Duration, heldBack bool)) (*link, error) {
	security, err := credentialsOf(p)
	if err != nil {
		return nil, err
	}
	window := int32(wideWindow)
	if p.Read != readNormal {
		window = narrowWindow
	}
	l := &link{socket: &socket{late: late}}
	l.channel, err = grpc.NewClient(
		"passthrough:///"+p.Host,
		grpc.WithTransportCredentials(security),
		grpc.WithContextDialer(l.socket.dial),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
	)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if p.Key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.Key)
	}
	// Connecting is bounded by the caller's own timer, which cancels the context.
	guard := time.AfterFunc(ms(p.ConnectMs), cancel)
	l.stream, err = l.channel.NewStream(
		ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, converse,
	)
	if !guard.Stop() {
		err = context.DeadlineExceeded
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) close() {
	l.cancel()
	l.channel.Close()
}

// reset ends the connection with a TCP reset, as a client does whose process or network died.
func (l *link) reset() {
	l.socket.reset()
	l.close()
}

func credentialsOf(p *plan) (credentials.TransportCredentials, error) {
	if !p.TLS {
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.CA != "" {
		pem, err := os.ReadFile(p.CA)
		if err != nil {
			return nil, fmt.Errorf("the CA file cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", p.CA)
		}
	}
	return credentials.NewTLS(config), nil
}

// heldBackFor separates frames that this program sent late from those the server would not take: flow
// control holds for long or not at all, and a processor that is that busy shows in the pacing too.
const heldBackFor = 250 * time.Millisecond

// socket is the TCP connection. It notes when a frame reached the kernel: gRPC writes from a goroutine
// of its own, and its wait for the processor is lateness of this program too.
type socket struct {
	connection atomic.Pointer[net.TCPConn]
	late       func(late time.Duration, heldBack bool)
	waiting    atomic.Int64 // frames not written yet
	due        atomic.Int64 // of the oldest of them
	handedOver atomic.Int64
}

type timedConnection struct {
	*net.TCPConn
	socket *socket
}

func (s *socket) dial(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp := connection.(*net.TCPConn)
	s.connection.Store(tcp)
	return timedConnection{tcp, s}, nil
}

// expect announces a frame that is about to be sent.
func (s *socket) expect(due, at time.Duration) {
	if s.waiting.Add(1) == 1 {
		s.due.Store(int64(due))
		s.handedOver.Store(int64(at))
	}
}

func (c timedConnection) Write(b []byte) (int, error) {
	due, handedOver := time.Duration(c.socket.due.Load()), time.Duration(c.socket.handedOver.Load())
	waiting := c.socket.waiting.Swap(0)
	n, err := c.TCPConn.Write(b)
	written := now()
	for range waiting { // they are a frame's time apart
		if written-handedOver > heldBackFor {
			c.socket.late(handedOver-due, true)
		} else {
			c.socket.late(max(0, written-due), false)
		}
		due, handedOver = due+frameTime, handedOver+frameTime
	}
	return n, err
}

func (s *socket) reset() {
	if connection := s.connection.Load(); connection != nil {
		connection.SetLinger(0)
		connection.Close()
	}
}
