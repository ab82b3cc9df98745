// One end of a peer written in Go: streams of one session, the library of which the build tag
// names ("muxado" or "yamux").
//
//	go server JOB
//	go client JOB ADDRESS
//	go first JOB ADDRESS
//
// How it talks with the process that measures stands at the top of ../worker.py.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// A session is what the library makes of a connection.
type session interface {
	open() (net.Conn, error)
	accept() (net.Conn, error)
	close() error
}

type job struct {
	Kind      string
	Streams   int
	Workers   int
	Over      string
	Path      string
	Cert, Key string
}

type figures map[string]interface{}

var output = json.NewEncoder(os.Stdout)

func say(what figures) {
	if err := output.Encode(what); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func check(err error) {
	if err != nil {
		panic(err) // and thereby the stack on standard error, and status 2
	}
}

func listen(j job) (net.Listener, interface{}) {
	if j.Over == "unix" {
		listener, err := net.Listen("unix", j.Path)
		check(err)
		return listener, j.Path
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	port := listener.Addr().(*net.TCPAddr).Port
	if j.Over == "tls" {
		pair, err := tls.LoadX509KeyPair(j.Cert, j.Key)
		check(err)
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	return listener, []interface{}{"127.0.0.1", port}
}

func dial(j job, address string) net.Conn {
	if j.Over == "unix" {
		var path string
		check(json.Unmarshal([]byte(address), &path))
		connection, err := net.Dial("unix", path)
		check(err)
		return connection
	}
	var place [2]interface{}
	check(json.Unmarshal([]byte(address), &place))
	name := net.JoinHostPort(place[0].(string), strconv.Itoa(int(place[1].(float64))))
	if j.Over == "tcp" {
		connection, err := net.Dial("tcp", name)
		check(err)
		return connection
	}
	pem, err := os.ReadFile(j.Cert)
	check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		check(errors.New("no certificate in " + j.Cert))
	}
	connection, err := tls.Dial("tcp", name, &tls.Config{RootCAs: roots, ServerName: "localhost"})
	check(err)
	return connection
}

func serve(j job, k kind, connection net.Conn) {
	s, err := serverSession(connection)
	check(err)
	ended := make(chan struct{})
	var once sync.Once
	handle := func(stream net.Conn) {
		defer func() {
			// A client that leaves may take the last streams' ends with it, and one that does
			// not leave misses its answer. Any other failure counts.
			if failure := recover(); failure != nil {
				select {
				case <-ended:
				case <-time.After(time.Second):
					panic(failure)
				}
			}
		}()
		k.handler(stream)
		check(stream.Close())
	}
	worker := func() {
		for {
			stream, err := s.accept()
			if err != nil {
				once.Do(func() { close(ended) })
				return // the session is over; why, its client knows
			}
			switch {
			case k.inline:
				k.handler(stream)
			case j.Workers > 0:
				handle(stream)
			default:
				go handle(stream)
			}
		}
	}
	for i := 1; i < j.Workers; i++ {
		go worker()
	}
	worker()
}

func server(j job, k kind) {
	listener, address := listen(j)
	say(figures{"address": address})
	go func() {
		for {
			connection, err := listener.Accept()
			check(err)
			go serve(j, k, connection)
		}
	}()
	_, err := io.Copy(io.Discard, os.Stdin)
	check(err)
}

func client(j job, k kind, address string) {
	s, err := clientSession(dial(j, address))
	check(err)
	say(figures{"ready": true})
	connect := func() net.Conn {
		stream, err := s.open()
		check(err)
		return stream
	}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var order struct{ Work int }
		check(json.Unmarshal(input.Bytes(), &order))
		say(k.client(connect, order.Work, j.Streams))
	}
	check(input.Err())
	s.close() // either library may report that its peer was faster
}

func first(j job, address string) {
	s, err := clientSession(dial(j, address))
	check(err)
	stream, err := s.open()
	check(err)
	roundTrip(stream)
	say(figures{})
	check(stream.Close())
	s.close()
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: go server|client|first JOB [ADDRESS]")
		os.Exit(2)
	}
	var j job
	check(json.Unmarshal([]byte(os.Args[2]), &j))
	k, ok := kinds[j.Kind]
	if !ok {
		check(errors.New("no such kind of work: " + j.Kind))
	}
	switch os.Args[1] {
	case "server":
		server(j, k)
	case "client":
		client(j, k, os.Args[3])
	case "first":
		first(j, os.Args[3])
	}
}
