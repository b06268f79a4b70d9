package redisload

import (
	"context"
	"fmt"
	"time"
)

// Fill waits until a server answers and writes version 0 of every record to it.
func Fill(ctx context.Context, dial Dial, address string, keys int) error {
	conn, err := await(ctx, dial, address)
	if err != nil {
		return fmt.Errorf("redis at %s: %w", address, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return conn.each(keys, func(i int) []string { return []string{"SET", Key(i), string(Record(i, 0))} },
		func(int, []byte) error { return nil })
}

func await(ctx context.Context, dial Dial, address string) (*conn, error) {
	for {
		conn, err := connect(ctx, dial, address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
