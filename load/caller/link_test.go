package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"parley/load/caller/voicepb"
)

// serveTLS greets whoever comes over TLS, and returns its address, its CA file and the keys it was shown.
func serveTLS(t *testing.T) (string, string, chan []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	keys := make(chan []string, 8)
	handle := func(_ any, stream grpc.ServerStream) error {
		given, _ := metadata.FromIncomingContext(stream.Context())
		keys <- given.Get("authorization")
		ready, _ := proto.Marshal(&voicepb.ServerMessage{Message: &voicepb.ServerMessage_Ready{Ready: &voicepb.Ready{}}})
		if err := stream.SendMsg(ready); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "parley.v1.Voice", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Converse", Handler: handle, ServerStreams: true, ClientStreams: true}},
	}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String(), ca, keys
}

func greeting(t *testing.T, p plan) error {
	p.ConnectMs, p.Read = 3000, readNormal
	l, err := dial(&p, func(time.Duration, bool) {})
	if err != nil {
		return err
	}
	defer l.close()
	return l.stream.RecvMsg(&incoming{})
}

func TestTLSWithACAAndAKey(t *testing.T) {
	host, ca, keys := serveTLS(t)
	if err := greeting(t, plan{Host: host, TLS: true, CA: ca, Key: "secret"}); err != nil {
		t.Fatal(err)
	}
	if shown := <-keys; len(shown) != 1 || shown[0] != "Bearer secret" {
		t.Fatalf("the server saw %q", shown)
	}
}

func TestNobodyTrustsAStranger(t *testing.T) {
	host, _, _ := serveTLS(t)
	if err := greeting(t, plan{Host: host, TLS: true}); err == nil || statusName(err) != "UNAVAILABLE" {
		t.Fatalf("got %v", err)
	}
	if err := greeting(t, plan{Host: host, TLS: true, CA: "none.pem"}); err == nil {
		t.Fatal("a CA file that is none was taken")
	}
}

func TestStatusNamesAreThoseOfGRPC(t *testing.T) {
	if name := statusName(context.DeadlineExceeded); name != "DEADLINE_EXCEEDED" {
		t.Fatal(name)
	}
}

func TestFramesThatTheServerDoesNotTakeAreNotOurLateness(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var late []time.Duration
	var held []bool
	s := &socket{late: func(l time.Duration, h bool) { late, held = append(late, l), append(held, h) }}
	connection, err := s.dial(context.Background(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	s.expect(now()-7*time.Millisecond, now())
	connection.Write([]byte("a"))
	connection.Write([]byte("b")) // no frame: not measured
	handedOver := now() - time.Second
	s.expect(handedOver-3*time.Millisecond, handedOver)
	connection.Write([]byte("c"))
	if len(late) != 2 || late[0] < 7*time.Millisecond || late[0] > 200*time.Millisecond || held[0] {
		t.Fatalf("got %v %v", late, held)
	}
	if late[1] != 3*time.Millisecond || !held[1] {
		t.Fatalf("a frame held back for a second counts with its own 3 ms: %v %v", late[1], held[1])
	}
}
