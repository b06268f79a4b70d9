package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// carrierTimeout bounds how long Up waits for links that it has taken up.
const carrierTimeout = time.Second

// Up opens what [Target.Fill] has made: the host's ends come up, and the lock goes. It is for
// the commit, and may be called again, by another process too. It returns once
// packets pass. An error that is not of the kernel's making, as a link that gets no
// carrier, leaves the rest open.
func (t *Target) Up(ns *Namespace, d Description) error {
	there, err := t.Host.handle()
	if err != nil {
		return err
	}
	defer there.Close()
	ends, err := t.findEnds(there)
	if err != nil {
		return err
	}
	var errs []error
	for _, end := range ends {
		if err := there.LinkSetUp(end); err != nil {
			errs = append(errs, fmt.Errorf("take up the host's end of a link: %w", err))
		}
	}
	errs = append(errs, awaitCarrier(ns, d, there), Unlock(ns, t.ID))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, end := range ends { // from now on it is the workload's
		errs = append(errs, there.LinkSetAlias(end, ""))
	}
	return errors.Join(errs...)
}

// findEnds returns the host's ends, by the alias if another process made them.
func (t *Target) findEnds(there *netlink.Handle) ([]netlink.Link, error) {
	var ends []netlink.Link
	for _, index := range t.ends {
		ends = append(ends, &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "-", Index: index}})
	}
	if t.ends != nil {
		return ends, nil
	}
	list, err := dump(there.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	for _, k := range list {
		if k.Attrs().Alias == t.endAlias() {
			ends = append(ends, k)
		}
	}
	return ends, nil
}

// awaitCarrier waits until the kernel has seen to links that have become connected, which
// it does in the background: until then they, or their ports, drop what they are given.
func awaitCarrier(ns *Namespace, d Description, there *netlink.Handle) error {
	here, err := ns.handle()
	if err != nil {
		return err
	}
	defer here.Close()
	ctx, cancel := context.WithTimeout(context.Background(), carrierTimeout)
	defer cancel()
	for _, l := range d.Links {
		if !l.Up || !l.attached() {
			continue
		}
		k, err := awaitUp(ctx, func() (netlink.Link, error) { return here.LinkByName(l.Name) })
		if err == nil && l.Kind == KindVeth {
			_, err = awaitUp(ctx, func() (netlink.Link, error) { return there.LinkByIndex(k.Attrs().ParentIndex) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitUp waits for a link to be operational (RFC 2863), and returns it.
func awaitUp(ctx context.Context, look func() (netlink.Link, error)) (netlink.Link, error) {
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for {
		k, err := look()
		if err != nil {
			return nil, fmt.Errorf("look at a link: %w", err)
		}
		if k.Attrs().OperState == netlink.OperUp {
			return k, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("link %s is %s: its bridge or parent is down", k.Attrs().Name, k.Attrs().OperState)
		case <-tick.C:
		}
	}
}

// Remove takes away what [Target.Fill] has made and [Target.Up] has not yet opened, by whichever
// process, and however much there is of it. The namespace may be nil if it is gone; a
// named one is the caller's to remove, with [RemoveNamed]. It may be called again.
func (t *Target) Remove(ns *Namespace) error {
	there, err := t.Host.handle()
	if err != nil {
		return err
	}
	defer there.Close()
	t.ends = nil // a number may have been given to another link since
	ends, err := t.findEnds(there)
	if err != nil {
		return err
	}
	var errs []error
	for _, end := range ends {
		if err := deleteLink(there, end); err != nil {
			errs = append(errs, fmt.Errorf("delete the host's end of a link: %w", err))
		}
	}
	if ns != nil {
		errs = append(errs, emptyNamespace(ns), Unlock(ns, t.ID))
	}
	return errors.Join(errs...)
}

// emptyNamespace deletes links that hang on the host's.
func emptyNamespace(ns *Namespace) error {
	here, err := ns.handle()
	if err != nil {
		return err
	}
	defer here.Close()
	list, err := dump(here.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, k := range list {
		if kind := k.Type(); kind == KindMacvlan || kind == KindIPVlan || kind == KindDummy {
			errs = append(errs, deleteLink(here, k))
		}
	}
	return errors.Join(errs...)
}
