// The other end of the interoperability tests: one session of the original muxado, version 1.
//
//	go_v1 -dial ADDRESS [-ca FILE] [-hold TYPE] STEP...
//	go_v1 -listen [-cert FILE -key FILE] [-hold TYPE] STEP...
//
// Every stream of the peer is echoed to its end, from the start to the end of the session. The
// steps are taken one after another:
//
//	open COUNT SIZE TYPE PRIORITY  exchange SIZE bytes with the peer's echo on COUNT streams at once
//	turns COUNT SIZE               the same, one stream after another
//	fin TYPE                       open a stream that is half-closed from birth, and read it
//	wait                           until there is a line on the standard input
//	release                        echo the streams of type -hold too, which were left unread so far
//	goaway CODE DEBUG, close, kill
//
// Then it waits for the session's end. Each thing that happens is a line of JSON on the standard
// output, and "event" says what it is: "listening" (address), "stepped" (step, error), "stream"
// for one of ours that is over (id, type, sent, received, intact, error), "served" for one of the
// peer's (id, type, received, sent, error), "end" (code, error, debug).
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/inconshreveable/muxado"
)

type fields map[string]interface{}

var (
	output  sync.Mutex
	encoder = json.NewEncoder(os.Stdout)
)

func report(event string, what fields) {
	what["event"] = event
	output.Lock()
	defer output.Unlock()
	if err := encoder.Encode(what); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "go_v1:", err)
	os.Exit(1)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// peer is one session and what it does.
type peer struct {
	session  muxado.Session
	hold     int64
	released chan struct{}
	streams  sync.WaitGroup // and the two loops that start them
}

func (p *peer) serve() {
	defer p.streams.Done()
	for {
		stream, err := p.session.Accept()
		if err != nil {
			return
		}
		p.streams.Add(1)
		go func() {
			defer p.streams.Done()
			if int64(stream.StreamType()) == p.hold {
				<-p.released
			}
			received, sent, err := echo(stream)
			report("served", fields{
				"id": stream.Id(), "type": stream.StreamType(),
				"received": received, "sent": sent, "error": text(err),
			})
		}()
	}
}

func echo(stream muxado.Stream) (received, sent int, err error) {
	buffer := make([]byte, 32*1024)
	for {
		n, err := stream.Read(buffer)
		received += n
		if n > 0 {
			n, errWrite := stream.Write(buffer[:n])
			sent += n
			if errWrite != nil {
				return received, sent, errWrite
			}
		}
		if err == io.EOF {
			_, err = stream.HalfClose(nil)
			return received, sent, err
		}
		if err != nil {
			return received, sent, err
		}
	}
}

// exchange sends size bytes on a new stream, half-closes it and reads what comes back to its end.
func (p *peer) exchange(size int, streamType, priority uint32) error {
	stream, err := p.session.OpenStream(
		muxado.StreamPriority(priority), muxado.StreamType(streamType), false)
	if err != nil {
		report("stream", fields{
			"id": 0, "type": streamType, "sent": 0, "received": 0, "intact": false,
			"error": text(err),
		})
		return err
	}
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(stream.Id()))).Read(data)
	var sent int
	var errWrite error
	written := make(chan struct{})
	go func() {
		defer close(written)
		sent, errWrite = stream.HalfClose(data)
	}()
	got, err := io.ReadAll(stream)
	<-written
	if err == nil {
		err = errWrite
	}
	report("stream", fields{
		"id": stream.Id(), "type": stream.StreamType(), "sent": sent, "received": len(got),
		"intact": bytes.Equal(got, data), "error": text(err),
	})
	return err
}

func (p *peer) bornClosed(streamType uint32) error {
	stream, err := p.session.OpenStream(0, muxado.StreamType(streamType), true)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(stream)
	report("stream", fields{
		"id": stream.Id(), "type": stream.StreamType(), "sent": 0, "received": len(got),
		"intact": len(got) == 0, "error": text(err),
	})
	return err
}

// arguments are the steps that are still to be taken.
type arguments []string

func (a *arguments) word() string {
	if len(*a) == 0 {
		fail(errors.New("a step lacks an argument"))
	}
	word := (*a)[0]
	*a = (*a)[1:]
	return word
}

func (a *arguments) number() uint32 {
	number, err := strconv.ParseUint(a.word(), 0, 32)
	if err != nil {
		fail(err)
	}
	return uint32(number)
}

func (p *peer) take(steps arguments) {
	defer p.streams.Done()
	input := bufio.NewReader(os.Stdin)
	for len(steps) > 0 {
		step := steps.word()
		var err error
		switch step {
		case "open":
			count, size := int(steps.number()), int(steps.number())
			streamType, priority := steps.number(), steps.number()
			for ; count > 0; count-- {
				p.streams.Add(1)
				go func() {
					defer p.streams.Done()
					p.exchange(size, streamType, priority)
				}()
			}
		case "turns":
			count, size := int(steps.number()), int(steps.number())
			for ; count > 0 && err == nil; count-- {
				err = p.exchange(size, 0, 0)
			}
		case "fin":
			err = p.bornClosed(steps.number())
		case "wait":
			_, err = input.ReadString('\n')
		case "release":
			close(p.released)
		case "goaway":
			code := muxado.ErrorCode(steps.number())
			err = p.session.GoAway(code, []byte(steps.word()))
		case "close":
			err = p.session.Close()
		case "kill":
			err = p.session.Kill()
		default:
			fail(fmt.Errorf("no such step: %s", step))
		}
		report("stepped", fields{"step": step, "error": text(err)})
	}
}

func dial(address, ca string) (muxado.Session, error) {
	if ca == "" {
		return muxado.Dial("tcp", address)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + ca)
	}
	return muxado.DialTLS("tcp", address, &tls.Config{RootCAs: roots, ServerName: "localhost"})
}

func accept(cert, key string) (muxado.Session, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	report("listening", fields{"address": listener.Addr().String()})
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	return muxado.NewListener(listener).Accept()
}

func main() {
	address := flag.String("dial", "", "be the client of the server at this `address`")
	listen := flag.Bool("listen", false, "be a server, for one client, on a port of loopback")
	ca := flag.String("ca", "", "client: use TLS, and trust the certificate in this `file`")
	cert := flag.String("cert", "", "server: use TLS with the certificate in this `file`")
	key := flag.String("key", "", "the `file` with the certificate's key")
	hold := flag.Int64("hold", -1, "leave the peer's streams of this `type` unread until 'release'")
	flag.Parse()

	var session muxado.Session
	var err error
	if *listen {
		session, err = accept(*cert, *key)
	} else {
		session, err = dial(*address, *ca)
	}
	if err != nil {
		fail(err)
	}
	p := &peer{session: session, hold: *hold, released: make(chan struct{})}
	p.streams.Add(2)
	go p.serve()
	go p.take(flag.Args())
	code, err, debug := session.Wait()
	report("end", fields{"code": code, "error": text(err), "debug": string(debug)})
	p.streams.Wait()
}
