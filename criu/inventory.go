package criu

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"google.golang.org/protobuf/proto"
)

// maxInventory bounds inventory.img, which is about 100 bytes long.
const maxInventory = 64 << 10

// maxUptime keeps an uptime in microseconds within a Duration.
const maxUptime = uint64(math.MaxInt64 / time.Microsecond)

// Inventory is what inventory.img tells about a dump.
type Inventory struct {
	ImageVersion uint32        // of the image format
	DumpUptime   time.Duration // of the dumping host, as /proc/uptime had it; 0 unless memory is tracked
	TCPClose     bool          // connections were dumped as closed ones
}

// ReadInventory reads inventory.img of a dump.
func ReadInventory(dir string) (Inventory, error) {
	b, err := readBounded(filepath.Join(dir, InventoryName), maxInventory)
	if err != nil {
		return Inventory{}, fmt.Errorf("inventory image: %w", err)
	}
	return parseInventory(b)
}

func parseInventory(b []byte) (Inventory, error) {
	body, err := skipMagic(b, inventoryMagic)
	if err != nil {
		return Inventory{}, fmt.Errorf("inventory image: %w", err)
	}
	msg, err := onlyMessage(body)
	if err != nil {
		return Inventory{}, fmt.Errorf("inventory image: %w", err)
	}
	var e inventory.InventoryEntry
	if err := proto.Unmarshal(msg, &e); err != nil {
		return Inventory{}, fmt.Errorf("inventory image: %w", err)
	}
	return Inventory{
		ImageVersion: e.GetImgVersion(),
		DumpUptime:   time.Duration(min(e.GetDumpUptime(), maxUptime)) * time.Microsecond,
		TCPClose:     e.GetTcpClose(),
	}, nil
}

// InventoryName is the file name of the inventory image.
const InventoryName = "inventory.img"

// KeepInventory removes everything from the images directory of a pre-dump but
// its inventory.img, which is all that the next one needs of its parent.
func KeepInventory(dir string) error {
	if _, err := ReadInventory(dir); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() != InventoryName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, f.Name())))
		}
	}
	return err
}
