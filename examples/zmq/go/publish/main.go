// Publish publishes the lines of standard input, each a JSON value, to a channel: publish PUSH-ENDPOINT CHANNEL
package main

import (
	"bufio"
	"io"
	"log"
	"os"
	"strings"

	zmq "github.com/pebbe/zmq4"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: publish PUSH-ENDPOINT CHANNEL")
	}
	if err := publish(os.Args[1], os.Args[2], os.Stdin); err != nil {
		log.Fatal(err)
	}
	// Waits until all is sent; without it the program's end would lose what is queued.
	if err := zmq.Term(); err != nil {
		log.Fatal(err)
	}
}

func publish(endpoint, channel string, input io.Reader) error {
	socket, err := zmq.NewSocket(zmq.PUSH)
	if err != nil {
		return err
	}
	defer socket.Close()
	if key := os.Getenv("ZMQ_SERVER_KEY"); key != "" {
		if err := socket.ClientAuthCurve(key, os.Getenv("ZMQ_PUBLIC_KEY"), os.Getenv("ZMQ_SECRET_KEY")); err != nil {
			return err
		}
	}
	if err := socket.Connect(endpoint); err != nil {
		return err
	}
	lines := bufio.NewReader(input)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			if _, err := socket.SendMessage(channel, strings.TrimSuffix(line, "\n")); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
