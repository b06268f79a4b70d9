package criu

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"google.golang.org/protobuf/proto"
)

// maxInventory bounds inventory.img, which is about 100 bytes long.
const maxInventory = 64 << 10

// Inventory is what inventory.img tells about a dump.
type Inventory struct {
	ImageVersion uint32        // of the image format: 1, or 2 since CRIU 1.x's namespaces of a task
	DumpUptime   time.Duration // CLOCK_BOOTTIME of the dumping host, as /proc/uptime had it; 0 in old images
	TCPClose     bool          // connections were dumped as closed ones
	// CRIU's numbers of the root's namespaces, which name images such as
	// timens-ID.img; 0 where the root lived in CRIU's own.
	TimeNamespace, NetNamespace, PIDNamespace uint32
}

// ReadInventory reads inventory.img of a dump.
func ReadInventory(dir string) (Inventory, error) {
	b, err := readBounded(filepath.Join(dir, "inventory.img"), maxInventory)
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
	ids := e.GetRootIds()
	return Inventory{
		ImageVersion:  e.GetImgVersion(),
		DumpUptime:    time.Duration(min(e.GetDumpUptime(), 1<<53)) * time.Microsecond,
		TCPClose:      e.GetTcpClose(),
		TimeNamespace: ids.GetTimeNsId(),
		NetNamespace:  ids.GetNetNsId(),
		PIDNamespace:  ids.GetPidNsId(),
	}, nil
}
