// Subscribe prints what comes on channels, and says where messages are missing: subscribe ENDPOINT PREFIX COUNT
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	zmq "github.com/pebbe/zmq4"
)

const inForce = "-/in-force/1"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: subscribe ENDPOINT PREFIX COUNT")
	}
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	gaps, err := subscribe(os.Args[1], os.Args[2], count)
	if err != nil {
		log.Fatal(err)
	}
	if gaps {
		os.Exit(1)
	}
}

func subscribe(endpoint, prefix string, count int) (gaps bool, err error) {
	socket, err := zmq.NewSocket(zmq.SUB)
	if err != nil {
		return false, err
	}
	defer socket.Close()
	if key := os.Getenv("ZMQ_SERVER_KEY"); key != "" {
		if err := socket.ClientAuthCurve(key, os.Getenv("ZMQ_PUBLIC_KEY"), os.Getenv("ZMQ_SECRET_KEY")); err != nil {
			return false, err
		}
	}
	if err := socket.Connect(endpoint); err != nil {
		return false, err
	}
	// The second comes when both subscriptions hold, and again after each reconnect.
	for _, topic := range []string{prefix, inForce} {
		if err := socket.SetSubscribe(topic); err != nil {
			return false, err
		}
	}
	last := map[string]string{}
	for received := 0; count == 0 || received < count; {
		frames, err := socket.RecvMessage(0)
		if err != nil {
			return gaps, err
		}
		channel, payload, cursor := frames[0], frames[1], frames[2]
		if channel == inForce {
			fmt.Println("ready")
			continue
		}
		if previous, known := last[channel]; known && cursor != "" {
			epoch, offset := split(cursor)
			lastEpoch, lastOffset := split(previous)
			if epoch != lastEpoch {
				fmt.Fprintln(os.Stderr, "new epoch:", channel)
			} else if offset > lastOffset+1 {
				fmt.Fprintln(os.Stderr, "gap:", channel, "after", previous)
				gaps = true
			}
		}
		if cursor != "" { // the channel keeps a history
			last[channel] = cursor
		}
		fmt.Printf("%s\t%s\t%s\n", channel, cursor, payload)
		received++
	}
	return gaps, nil
}

func split(cursor string) (epoch string, offset int64) {
	epoch, digits, _ := strings.Cut(cursor, ":")
	offset, _ = strconv.ParseInt(digits, 10, 64)
	return epoch, offset
}
