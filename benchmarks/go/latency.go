package main

// The kinds of work that look at latency, as ../latency.py does them in Python.

import (
	"encoding/binary"
	"io"
	"math/rand"
	"net"
	"sort"
	"sync"
	"time"
)

const (
	probeStream     = 'p'
	betweenMessages = 2 * time.Millisecond
)

// A span is what a random time is uniformly drawn from.
type span struct{ low, high time.Duration }

var (
	thinking  = span{200 * time.Microsecond, 4 * time.Millisecond}
	answering = span{500 * time.Microsecond, 2 * time.Millisecond}
	pausing   = span{200 * time.Microsecond, time.Millisecond}
)

func (s span) draw(chance *rand.Rand) time.Duration {
	return s.low + time.Duration(chance.Int63n(int64(s.high-s.low)))
}

func percentile(times []float64, percent int) float64 {
	sort.Float64s(times)
	return times[len(times)*percent/100]
}

func percentiles(times []float64) figures {
	return figures{"p50": percentile(times, 50), "p99": percentile(times, 99)}
}

// onEach does the job on so many connections at once.
func onEach(open connect, streams int, job func(c net.Conn, number int)) {
	connections := make([]net.Conn, streams)
	jobs := make([]func(), streams)
	for i := range jobs {
		i := i
		connections[i] = open()
		jobs[i] = func() { job(connections[i], i) }
	}
	seconds(jobs...)
	for _, c := range connections {
		check(c.Close())
	}
}

// latency

func latencyHandler(c net.Conn) {
	if receive(c, 1)[0] == probeStream {
		echo(c)
		return
	}
	buffer := make([]byte, readSize)
	for {
		if _, err := c.Read(buffer); err == io.EOF {
			return
		} else {
			check(err)
		}
	}
}

func latencyClient(connect connect, count, streams int) figures {
	probe := connect()
	send(probe, []byte{probeStream})
	roundTrip(probe)
	bulk := connect()
	send(bulk, []byte{'b'})

	var lock sync.Mutex
	blocks, stop := 0, false
	flowing, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		block := make([]byte, blockSize)
		for {
			send(bulk, block)
			lock.Lock()
			blocks++
			if blocks == 1 {
				close(flowing)
			}
			over := stop
			lock.Unlock()
			if over {
				return
			}
		}
	}()
	sent := func() int {
		lock.Lock()
		defer lock.Unlock()
		return blocks
	}
	<-flowing
	for i := 0; i < warmUp/10 && i < count/10; i++ {
		roundTrip(probe)
	}
	times := make([]float64, count)
	before, start := sent(), time.Now()
	for i := range times {
		begun := time.Now()
		roundTrip(probe)
		times[i] = time.Since(begun).Seconds()
	}
	amount, took := float64(sent()-before)*blockSize, time.Since(start).Seconds()
	if amount < blockSize/2 {
		amount = blockSize / 2
	}
	lock.Lock()
	stop = true
	lock.Unlock()
	<-ended
	check(bulk.Close())
	check(probe.Close())
	result := percentiles(times)
	result["bulk"] = took / amount
	return result
}

// think

func thinkHandler(c net.Conn) {
	requests := receiveSize(c)
	sendAck(c)
	for ; requests > 0; requests-- {
		request := receive(c, messageSize)
		time.Sleep(time.Duration(binary.BigEndian.Uint64(request)))
		send(c, request)
	}
	expectEnd(c)
}

func thinkClient(open connect, count, streams int) figures {
	each := count / streams
	times := make([]float64, each*streams)
	start := func() net.Conn { return prepared(open, each) }
	onEach(start, streams, func(c net.Conn, number int) {
		chance := rand.New(rand.NewSource(int64(number)))
		request := make([]byte, messageSize)
		for i := number * each; i < (number+1)*each; i++ {
			time.Sleep(thinking.draw(chance))
			delay := answering.draw(chance)
			binary.BigEndian.PutUint64(request, uint64(delay))
			begun := time.Now()
			send(c, request)
			receive(c, messageSize)
			times[i] = (time.Since(begun) - delay).Seconds()
		}
	})
	return percentiles(times)
}

// push

func pushHandler(c net.Conn) {
	seed, messages := receiveSize(c), receiveSize(c)
	chance := rand.New(rand.NewSource(int64(seed)))
	message := make([]byte, messageSize)
	for ; messages > 0; messages-- {
		time.Sleep(time.Duration(chance.ExpFloat64() * float64(betweenMessages)))
		binary.BigEndian.PutUint64(message, uint64(time.Now().UnixNano()))
		send(c, message)
	}
	expectEnd(c)
}

func pushClient(open connect, count, streams int) figures {
	each := count / streams
	all, late := make([]float64, each*streams), make([]float64, each*streams)
	onEach(open, streams, func(c net.Conn, number int) {
		chance := rand.New(rand.NewSource(int64(number)))
		sendSize(c, number)
		sendSize(c, each)
		for i := number * each; i < (number+1)*each; i++ {
			called := time.Now().UnixNano()
			sent := int64(binary.BigEndian.Uint64(receive(c, messageSize)))
			// The time of day is the only clock that both processes can read.
			received := time.Now().UnixNano()
			all[i] = float64(received-sent) / 1e9
			if sent < called {
				sent = called
			}
			late[i] = float64(received-sent) / 1e9
			time.Sleep(pausing.draw(chance))
		}
	})
	return figures{"p50": percentile(all, 50), "p99": percentile(late, 99)}
}
