// Command sparse has goroutines that check their own memory, timers, and large
// reservations of which it has touched next to nothing.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	reserved = 64 << 30 // PROT_NONE
	sparse   = 32 << 30 // readable and writable, never reserved
	stride   = 512 << 20
	workers  = 50
)

var (
	progress atomic.Int64
	mu       sync.Mutex
	errs     = []string{}
)

func wrong(format string, args ...any) {
	mu.Lock()
	defer mu.Unlock()
	errs = append(errs, fmt.Sprintf(format, args...))
}

func mmap(size, prot int) []byte {
	b, err := syscall.Mmap(-1, 0, size, prot, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		panic(err)
	}
	return b
}

// work rewrites memory of its own and checks what it wrote the time before.
func work(n int) {
	block := make([]byte, 256<<10)
	sum := crc32.ChecksumIEEE(block)
	for i := 0; ; i++ {
		if got := crc32.ChecksumIEEE(block); got != sum {
			wrong("block %d is damaged in round %d", n, i)
		}
		for j := 0; j < len(block); j += 512 {
			block[j+i%512] = byte(n + i)
		}
		sum = crc32.ChecksumIEEE(block)
		time.Sleep(10 * time.Millisecond)
	}
}

// touch keeps a few pages of the sparse reservation and checks them, and that
// pages beside them are still zero.
func touch(b []byte) {
	for i := 0; ; i++ {
		for at := 0; at < len(b); at += stride {
			if i > 0 && b[at] != byte(i-1) || b[at+1] != 0 {
				wrong("at %d of the reservation is %d after %d", at, b[at], i-1)
			}
			b[at] = byte(i)
			if b[at+4096*(1+i%1000)] != 0 {
				wrong("beside %d is %d", at, b[at+4096])
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// tick is the program's progress. A tick may be late, but not early.
func tick() {
	last := time.Now()
	for now := range time.Tick(5 * time.Millisecond) {
		if now.Sub(last) < 0 {
			wrong("the clock went back by %v", last.Sub(now))
		}
		last = now
		done := make(chan bool)
		set := time.Now()
		time.AfterFunc(2*time.Millisecond, func() { close(done) })
		<-done
		if took := time.Since(set); took < 2*time.Millisecond {
			wrong("a timer of 2 ms took %v", took)
		}
		progress.Add(1)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	word, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	json.NewEncoder(conn).Encode(map[string]any{"progress": progress.Load(), "errors": errs})
	if word == "exit\n" {
		conn.Close()
		os.Exit(min(len(errs), 1))
	}
}

func main() {
	mmap(reserved, syscall.PROT_NONE)
	go touch(mmap(sparse, syscall.PROT_READ|syscall.PROT_WRITE))
	for n := range workers {
		go work(n)
	}
	go tick()
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		if conn, err := l.Accept(); err == nil {
			go answer(conn)
		}
	}
}
