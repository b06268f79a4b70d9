package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Release deletes the links of a namespace that was moved away, on the source after the
// commit point, with their ends in the host's namespace, and whatever locks are in it.
// It deletes only what is as described, and may be called again. A named namespace
// is the caller's to remove, with [RemoveNamed].
//
// The links go first: when the locks go there is nothing left that could answer.
func Release(ns *Namespace, d Description) error {
	here, err := ns.handle()
	if err != nil {
		return err
	}
	defer here.Close()
	var errs []error
	for _, l := range d.Links {
		if l.attached() {
			errs = append(errs, releaseLink(here, l))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err = dropTables(ns, isLock)
	return err
}

func releaseLink(here *netlink.Handle, l Link) error {
	k, err := here.LinkByName(l.Name)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return nil
	case err != nil:
		return fmt.Errorf("find link %s: %w", l.Name, err)
	case k.Type() != l.Kind || k.Attrs().Index != l.Index:
		return nil // another one by that name
	}
	return deleteLink(here, k)
}

func deleteLink(h *netlink.Handle, k netlink.Link) error {
	if err := h.LinkDel(k); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", k.Attrs().Name, err)
	}
	return nil
}
