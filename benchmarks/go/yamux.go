//go:build yamux

package main

import (
	"net"

	"github.com/hashicorp/yamux"
)

type streams struct{ session *yamux.Session }

func (s streams) open() (net.Conn, error)   { return s.session.Open() }
func (s streams) accept() (net.Conn, error) { return s.session.Accept() }
func (s streams) close() error              { return s.session.Close() }

func clientSession(connection net.Conn) (session, error) {
	made, err := yamux.Client(connection, nil)
	return streams{made}, err
}

func serverSession(connection net.Conn) (session, error) {
	made, err := yamux.Server(connection, nil)
	return streams{made}, err
}
