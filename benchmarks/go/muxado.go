//go:build muxado

package main

import (
	"net"

	"github.com/inconshreveable/muxado"
)

type streams struct{ session muxado.Session }

func (s streams) open() (net.Conn, error)   { return s.session.Open() }
func (s streams) accept() (net.Conn, error) { return s.session.Accept() }
func (s streams) close() error              { return s.session.Close() }

func clientSession(connection net.Conn) (session, error) {
	return streams{muxado.Client(connection)}, nil
}

func serverSession(connection net.Conn) (session, error) {
	return streams{muxado.Server(connection)}, nil
}
