package main

// The work, as ../work.py does it in Python: the same bytes in the same order.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	blockSize   = 1 << 20
	readSize    = 256 << 10
	requestSize = 1024
	messageSize = 64
	warmUp      = 100
	ack         = '.'
	keepStream  = 'k'
	weighStream = 'w'
)

type connect func() net.Conn

type kind struct {
	client  func(connect connect, work, streams int) figures
	handler func(net.Conn)
	inline  bool
}

var kinds = map[string]kind{
	"rtt":      {rttClient, echo, false},
	"open":     {openClient, openHandler, false},
	"bulk":     {bulkClient, bulkHandler, false},
	"down":     {downClient, downHandler, false},
	"both":     {bothClient, bothHandler, false},
	"messages": {messagesClient, messagesHandler, false},
	"latency":  {latencyClient, latencyHandler, false},
	"think":    {thinkClient, thinkHandler, false},
	"push":     {pushClient, pushHandler, false},
	"idle":     {idleClient, idleHandler, true},
	"start":    {rttClient, echo, false},
}

// The parts.

func send(c net.Conn, data []byte) {
	_, err := c.Write(data)
	check(err)
}

func receive(c net.Conn, size int) []byte {
	data := make([]byte, size)
	_, err := io.ReadFull(c, data)
	check(err)
	return data
}

func sendSize(c net.Conn, size int) {
	var data [8]byte
	binary.BigEndian.PutUint64(data[:], uint64(size))
	send(c, data[:])
}

func receiveSize(c net.Conn) int {
	return int(binary.BigEndian.Uint64(receive(c, 8)))
}

func sendAck(c net.Conn) { send(c, []byte{ack}) }

func expectAck(c net.Conn) {
	if got := receive(c, 1)[0]; got != ack {
		check(fmt.Errorf("%q came instead of the acknowledgement", got))
	}
}

func expectEnd(c net.Conn) {
	var one [1]byte
	n, err := c.Read(one[:])
	if n > 0 {
		check(errors.New("bytes came instead of the end"))
	}
	if err != io.EOF {
		check(err)
	}
}

func sinkAll(c net.Conn, size, bufferSize int) {
	buffer := make([]byte, bufferSize)
	for size > 0 {
		if size < len(buffer) {
			buffer = buffer[:size]
		}
		n, err := c.Read(buffer)
		size -= n
		if size > 0 {
			check(err)
		}
	}
}

func pour(c net.Conn, size int) {
	block := make([]byte, blockSize)
	for ; size >= blockSize; size -= blockSize {
		send(c, block)
	}
	if size > 0 {
		send(c, block[:size])
	}
}

func echo(c net.Conn) {
	var one [1]byte
	for {
		n, err := c.Read(one[:])
		if n > 0 {
			send(c, one[:])
		}
		if err == io.EOF {
			return
		}
		check(err)
	}
}

func roundTrip(c net.Conn) {
	send(c, []byte{'x'})
	if receive(c, 1)[0] != 'x' {
		check(errors.New("the echo did not come"))
	}
}

func prepared(connect connect, size int) net.Conn {
	c := connect()
	sendSize(c, size)
	expectAck(c)
	return c
}

func seconds(jobs ...func()) figures {
	var group sync.WaitGroup
	start := time.Now()
	for _, each := range jobs[1:] {
		group.Add(1)
		go func(job func()) {
			defer group.Done()
			job()
		}(each)
	}
	jobs[0]()
	group.Wait()
	return figures{"seconds": time.Since(start).Seconds()}
}

// rtt

func rttClient(connect connect, count, streams int) figures {
	trips := func(c net.Conn, n int) {
		var one [1]byte
		message := []byte{'x'}
		for ; n > 0; n-- {
			send(c, message)
			if _, err := c.Read(one[:]); err != nil || one[0] != 'x' {
				check(fmt.Errorf("the echo did not come: %v", err))
			}
		}
	}
	connections := make([]net.Conn, streams)
	jobs := make([]func(), streams)
	for i := range jobs {
		c := connect()
		connections[i] = c
		jobs[i] = func() { trips(c, count/streams) }
		if count < warmUp {
			trips(c, count)
		} else {
			trips(c, warmUp)
		}
	}
	result := seconds(jobs...)
	for _, c := range connections {
		check(c.Close())
	}
	return result
}

// open

func openHandler(c net.Conn) {
	send(c, receive(c, requestSize))
	expectEnd(c)
}

func openClient(connect connect, count, callers int) figures {
	request := make([]byte, requestSize)
	for i := range request {
		request[i] = byte(i)
	}
	caller := func() {
		for i := 0; i < count/callers; i++ {
			c := connect()
			send(c, request)
			if !bytes.Equal(receive(c, requestSize), request) {
				check(errors.New("the echo is not what was sent"))
			}
			check(c.Close())
		}
	}
	jobs := make([]func(), callers)
	for i := range jobs {
		jobs[i] = caller
	}
	return seconds(jobs...)
}

// bulk, down, both

func bulkHandler(c net.Conn) {
	size := receiveSize(c)
	sendAck(c)
	sinkAll(c, size, readSize)
	sendAck(c)
	expectEnd(c)
}

func each(connect connect, size, streams int, job func(net.Conn)) figures {
	connections := make([]net.Conn, streams)
	jobs := make([]func(), streams)
	for i := range jobs {
		c := prepared(connect, size/streams)
		connections[i] = c
		jobs[i] = func() { job(c) }
	}
	result := seconds(jobs...)
	for _, c := range connections {
		check(c.Close())
	}
	return result
}

func bulkClient(connect connect, size, streams int) figures {
	return each(connect, size, streams, func(c net.Conn) {
		pour(c, size/streams)
		expectAck(c)
	})
}

func downHandler(c net.Conn) {
	pour(c, receiveSize(c))
	expectEnd(c)
}

func downClient(connect connect, size, streams int) figures {
	c := connect()
	result := seconds(func() {
		sendSize(c, size)
		sinkAll(c, size, readSize)
	})
	check(c.Close())
	return result
}

func bothHandler(c net.Conn) {
	size := receiveSize(c)
	sendAck(c)
	seconds(func() { pour(c, size) }, func() { sinkAll(c, size, readSize) })
	sendAck(c)
	expectEnd(c)
}

func bothClient(connect connect, size, streams int) figures {
	c := prepared(connect, size)
	result := seconds(func() { pour(c, size) }, func() {
		sinkAll(c, size, readSize)
		expectAck(c)
	})
	check(c.Close())
	return result
}

// messages

func messagesHandler(c net.Conn) {
	size := receiveSize(c)
	sendAck(c)
	sinkAll(c, size, 65536)
	sendAck(c)
	expectEnd(c)
}

func messagesClient(connect connect, count, streams int) figures {
	message := make([]byte, messageSize)
	return each(connect, count/streams*streams*messageSize, streams, func(c net.Conn) {
		for i := 0; i < count/streams; i++ {
			send(c, message)
		}
		expectAck(c)
	})
}

// idle

// entry is a line of a file in /proc, in bytes.
func entry(file, name string) int {
	data, err := os.ReadFile(file)
	check(err)
	for _, line := range strings.Split(string(data), "\n") {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			size, err := strconv.Atoi(words[1])
			check(err)
			return size * 1024
		}
	}
	check(fmt.Errorf("%s does not tell %s", file, name))
	return 0
}

func privateMemory() int {
	debug.FreeOSMemory() // collects garbage first
	return entry("/proc/self/smaps_rollup", "Private_Dirty:")
}

func kernelMemory() int { return entry("/proc/meminfo", "Slab:") }

var kept struct {
	sync.Mutex
	connections []net.Conn
}

func idleHandler(c net.Conn) {
	if receive(c, 1)[0] == weighStream {
		sendSize(c, privateMemory())
	} else {
		sendAck(c)
	}
	kept.Lock()
	defer kept.Unlock()
	kept.connections = append(kept.connections, c)
}

func weigh(c net.Conn) int {
	send(c, []byte{weighStream})
	theirs := receiveSize(c)
	return theirs + privateMemory()
}

func idleClient(connect connect, count, streams int) figures {
	first := connect()
	before, kernel := weigh(first), kernelMemory()
	idle := make([]net.Conn, 0, count)
	for i := 1; i < count; i++ {
		c := connect()
		send(c, []byte{keepStream})
		expectAck(c)
		idle = append(idle, c)
	}
	last := connect()
	after, kernelAfter := weigh(last), kernelMemory()
	for _, c := range append(idle, last, first) {
		check(c.Close())
	}
	grown := after - before
	return figures{"bytes": grown, "all": grown + kernelAfter - kernel}
}
